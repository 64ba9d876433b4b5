"""The flow `sweep`: variants of a training, side by side in one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed
from pydantic import Field

from flows.common import begin, named, this_deployment
from flows.sweeping import Sweeping, search
from tasks.plan import Planner
from tasks.policies import prefect_runner
from tasks.runs import Recorder, finish_run, verdict_of
from tasks.settings import Settings
from tasks.shown import board
from tasks.sweeps.order import Checked, Order, check
from tasks.sweeps.search import SearchConfig
from tasks.sweeps.variants import Asked

Values = Annotated[list[Any], Field(min_length=1)]


@flow(name="sweep", result_serializer="json")
def sweep(
    configs: Annotated[list[Path], Field(min_length=1)],
    grid: dict[str, Values] | None = None,
    optuna: SearchConfig | None = None,
    parallel: Annotated[int, Field(ge=1)] | None = None,
    settings: Settings | None = None,
    overrides: list[str] | None = None,
    command: str | None = None,
) -> Any:
    """Train every variant and judge all against the same base, in one report.

    Args:
        configs: paths of YAML files of whole configurations, one a method. All are judged as the first one says.
        grid: setting -> the values it takes, such as `{"training.seed": [1, 2, 3]}`; every combination is trained.
        optuna: in place of a grid, a search for good settings.
        parallel: how many train at once; default: as many as there are GPUs for, and one on processors.
        settings: what is to be otherwise than in the files, in all of them.
        overrides: the same as texts `key.path=value`, such as `training.max_steps=200`; these come last.
        command: what the report says makes it again; default: this deployment with these parameters.
    """
    said = begin(settings)
    asked = Asked(tuple(configs), tuple(overrides or ()), said)
    return swept(check(Order(asked, grid or {}, optuna, parallel)), command or this_deployment())


def swept(checked: Checked, command: str) -> Any:
    """A completed state; its name says whether some variants could not be trained."""
    planner, runtime = Planner(checked.store), checked.judging.runtime
    Sweeping(checked, planner, command).plan(checked.prepared)
    planner.require_devices(runtime.device, runtime.elsewhere)
    with board(checked.store, checked.name) as shown:
        recorder = Recorder(shown.watching(prefect_runner(checked.store, runtime, checked.name)))
        sweeping = Sweeping(checked, recorder, command)
        if checked.order.search is not None:
            search(sweeping, checked.order.search)
        else:
            sweeping.train(checked.prepared)
        sweeping.report()
        place = finish_run(checked.store, checked.name, command, recorder.refs)
        shown.report(recorder.refs["report"], place)
    failed = {variant.name: failure.reason for variant, failure in sweeping.failed}
    data = {
        "report": str(place),
        "verdict": verdict_of(checked.store, recorder.refs),
        "artifacts": named(recorder.refs),
        "failed": failed,
    }
    total = len(sweeping.trained) + len(failed)
    message = f"{len(sweeping.trained)} of {total} variants trained"
    return Completed(name="SomeFailed" if failed else "Completed", message=message, data=data)
