"""What every flow does around its wiring: read the configuration, run, and leave the results where people look."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, WithJsonSchema

from flows.attempts import refuse_after_crashes
from tasks.config import PipelineConfig
from tasks.experiment import Experiment, prepare_experiment
from tasks.manifest import Ref
from tasks.plan import Expecting, Planner
from tasks.policies import prefect_runner
from tasks.references import as_local
from tasks.runs import Recorder, finish_run, record_run, verdict_of
from tasks.secrets import mask_logs
from tasks.settings import Settings
from tasks.shown import Board, board
from tasks.stage import Runner
from tasks.store import ArtifactStore
from tasks.trainings import Resume
from tasks.yaml_config import build_config, read_config, resolve_paths

Configured = Annotated[PipelineConfig | Path, WithJsonSchema({"type": "string", "format": "path"})]
"""The whole configuration, or the path of its YAML file; in which case its relative paths are relative to the file.

Deployments take the path alone, and `settings` beside it: a form of either would say of a mistake only that it is
neither, and of every value that the file has, that it is missing.
"""
Wiring = Callable[[Experiment, Runner], object]


def configure(
    config: Configured,
    overrides: Sequence[str] | None = None,
    candidates: Sequence[str] = (),
    settings: Settings | None = None,
) -> PipelineConfig:
    """The configuration with its settings, then its overrides, and all local paths absolute.

    `candidates`: as `read_config`.

    Raises:
        ConfigError: something in them cannot be as it is; or as `begin`.
    """
    said = begin(settings)
    models, changes = [as_local(reference) for reference in candidates], overrides or []
    if isinstance(config, Path):
        return read_config(config, changes, models, said)
    document = resolve_paths(config.model_dump(mode="json", exclude_unset=True), Path.cwd())
    return build_config(document, changes, "config", models, said)


def begin(settings: Settings | None) -> dict[str, Any] | None:
    """What every flow does first; returns the settings as a YAML file would have them. What is logged from here on is
    masked.

    Raises:
        ConfigError: this run's process has died too often.
    """
    refuse_after_crashes()
    mask_logs()
    return None if settings is None else settings.model_dump(mode="json")


@contextmanager
def recorded(experiment: Experiment, store: ArtifactStore) -> Iterator[tuple[Recorder, Board]]:
    """A runner that runs stages as Prefect tasks, shows them and remembers them; and where they are shown."""
    with board(store, experiment.name) as shown:
        runner = prefect_runner(store, experiment.config.runtime, experiment.name)
        yield Recorder(shown.watching(runner)), shown


@dataclass(frozen=True)
class Carried:
    """What a configuration came to."""

    refs: Mapping[str, Ref]
    """All artifacts by label."""
    report: Path
    """The published one."""
    verdict: str | None
    """By gates."""


def run_flow(
    config: PipelineConfig,
    command: str | None,
    wiring: Wiring,
    *,
    expecting: Collection[str] = (),
    resume: Resume | None = None,
) -> dict[str, Any]:
    """The body of a flow; returns the report's place, the verdict by gates and all artifacts by label.

    `command`: what makes it again; None: this very deployment. Stages of the kinds in `expecting` must be in the store
    already.
    """
    carried = carry_through(config, command or this_deployment(), wiring, expecting=expecting, resume=resume)
    return {
        "report": str(carried.report),
        "verdict": carried.verdict,
        "artifacts": named(carried.refs),
    }


def this_deployment() -> str:
    """The command that starts this flow run's deployment with the same parameters."""
    from prefect.runtime import deployment, flow_run

    words = ["prefect", "deployment", "run", f"{flow_run.flow_name}/{deployment.name or flow_run.flow_name}"]
    for name, value in sorted((flow_run.parameters or {}).items()):
        if name not in ("command", "resume") and value not in (None, [], {}, False):
            text = str(value) if isinstance(value, str | Path) else json.dumps(_as_json(value), sort_keys=True)
            words += ["--param", f"{name}={text}"]
    return shlex.join(words)


def _as_json(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def carry_through(
    config: PipelineConfig,
    command: str,
    wiring: Wiring,
    *,
    expecting: Collection[str] = (),
    resume: Resume | None = None,
) -> Carried:
    """Run a wiring under Prefect, from the configuration to the published report. Arguments as of `run_flow`."""
    store = config.runtime.open_store()
    experiment = prepare_experiment(config, store, command, resume)
    _refuse_impossible(experiment, store, wiring)
    with recorded(experiment, store) as (recorder, shown):
        wiring(experiment, Expecting(expecting, store, recorder))
        report = finish_run(store, experiment.name, command, recorder.refs)
        shown.report(recorder.refs["report"], report)
    return Carried(recorder.refs, report, verdict_of(store, recorder.refs))


def _refuse_impossible(experiment: Experiment, store: ArtifactStore, wiring: Wiring) -> None:
    """Raises UserError where a stage that would run needs more than this machine has, before any does."""
    planner = Planner(store)
    wiring(experiment, planner)
    runtime = experiment.config.runtime
    planner.require_devices(runtime.device, runtime.elsewhere)


def run_ahead(config: PipelineConfig, name: str, wiring: Wiring) -> dict[str, Any]:
    """The body of a flow that ends before a report; returns all artifacts by label.

    `name`: with the experiment's, what the run is recorded as, so that garbage collection keeps what it made.
    """
    store = config.runtime.open_store()
    experiment = prepare_experiment(config, store, name)
    with recorded(experiment, store) as (recorder, _):
        wiring(experiment, recorder)
    record_run(store, f"{config.name}-{name}", name, recorder.refs)
    return {"artifacts": named(recorder.refs)}


def named(refs: Mapping[str, Ref]) -> dict[str, str]:
    """Artifacts by label, as Prefect may keep them."""
    return {label: str(ref) for label, ref in refs.items()}
