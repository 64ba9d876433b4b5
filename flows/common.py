"""What every flow does around its wiring: read the configuration, run, and leave the results where people look."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.config import PipelineConfig
from tasks.experiment import Experiment, prepare_experiment
from tasks.plan import Expecting
from tasks.policies import prefect_runner
from tasks.references import as_local
from tasks.runs import Recorder, finish_run, report_files, score_rows, verdict_of
from tasks.stage import Handle, Runner
from tasks.store import ArtifactStore
from tasks.trainings import Resume
from tasks.yaml_config import build_config, read_config, resolve_paths, with_candidates

Configured = PipelineConfig | Path
"""The whole configuration, or the path of its YAML file; in which case its relative paths are relative to the file."""
Wiring = Callable[[Experiment, Runner], Handle]


def configure(config: Configured, overrides: Sequence[str], candidates: Sequence[str] = ()) -> PipelineConfig:
    """The configuration with its overrides, and all its local paths absolute. `candidates`: as `read_config`."""
    named = [as_local(reference) for reference in candidates]
    if isinstance(config, Path):
        return read_config(config, overrides, named)
    document = resolve_paths(config.model_dump(mode="json", exclude_unset=True), Path.cwd())
    return build_config(with_candidates(document, named), overrides, "config")


def run_flow(
    config: PipelineConfig,
    command: str,
    wiring: Wiring,
    *,
    expecting: Collection[str] = (),
    resume: Resume | None = None,
) -> dict[str, Any]:
    """The body of a flow; returns the report's place, the verdict by gates and all artifacts by label.

    Stages of the kinds in `expecting` must be in the store already.
    """
    store = config.runtime.open_store()
    experiment = prepare_experiment(config, store, command, resume)
    recorder = Recorder(prefect_runner(store, config.runtime.device))
    wiring(experiment, Expecting(expecting, store, recorder))
    report = finish_run(store, experiment.name, command, recorder.refs)
    _show_in_prefect(store, experiment.name, recorder, report)
    verdict = verdict_of(store, recorder.refs)
    return {
        "report": str(report),
        "verdict": verdict,
        "artifacts": {label: str(ref) for label, ref in recorder.refs.items()},
    }


def _show_in_prefect(store: ArtifactStore, name: str, recorder: Recorder, report: Path) -> None:
    """The report's summary and scores as Prefect artifacts; the same key again is a new version of the same."""
    summary, figures = report_files(store, recorder.refs["report"])
    create_markdown_artifact(f"{summary}\n\nreport: `{report}`\n", key=f"report-{name}", description=f"Report {name}")
    create_table_artifact(score_rows(figures), key=f"scores-{name}", description=f"Base against candidate, {name}")
