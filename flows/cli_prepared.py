"""What commands do before and around a flow: check everything, and run only what there is to run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from flows import console

if TYPE_CHECKING:
    from tasks.config import PipelineConfig
    from tasks.experiment import Experiment
    from tasks.plan import Planner
    from tasks.runs import Recorder
    from tasks.stage import Runner
    from tasks.store import ArtifactStore
    from tasks.trainings import Resume

    Wiring = Callable[[Experiment, Runner], object]


@dataclass(frozen=True)
class Prepared:
    """A configuration, checked, and what running it would do."""

    store: ArtifactStore
    experiment: Experiment
    planner: Planner
    reused: Recorder


def check(
    config: PipelineConfig,
    command: str,
    wiring: Wiring,
    expecting: Collection[str] = (),
    resume: Resume | None = None,
) -> Prepared:
    """Everything that can be wrong with a configuration comes to light here, before Prefect or a model loads.

    `command`: what makes the report again. Stages of the kinds in `expecting` must be in the store already.
    """
    from tasks.experiment import prepare_experiment
    from tasks.plan import Expecting, Planner
    from tasks.runs import Recorder

    store = config.runtime.open_store()
    experiment = prepare_experiment(config, store, command, resume)
    planner = Planner(store)
    reused = Recorder(planner)
    wiring(experiment, Expecting(expecting, store, reused))
    planner.require_devices(config.runtime.device, config.runtime.elsewhere)
    return Prepared(store, experiment, planner, reused)


def carry_out(prepared: Prepared, start: Callable[[], dict[str, Any]]) -> None:
    """Run what has to run, under Prefect; with nothing to run, Prefect's own start would be all of the work."""
    from tasks.errors import EXIT_CODE_OF_VERDICT
    from tasks.prefect_home import local_prefect
    from tasks.runs import finish_run, verdict_of

    store, experiment = prepared.store, prepared.experiment
    if prepared.planner.complete:
        console.table([(stage.label, "reused", stage.why) for stage in prepared.planner.stages])
        refs = prepared.reused.refs
        place, verdict = str(finish_run(store, experiment.name, experiment.command, refs)), verdict_of(store, refs)
    else:
        with local_prefect(store.root):
            done = start()
        place, verdict = done["report"], done["verdict"]
    console.out(f"report: {place}")
    if verdict is not None:
        console.out(f"verdict: {verdict}")
        raise typer.Exit(EXIT_CODE_OF_VERDICT[verdict])
