"""A training that has ended, found by the name of its run or by its artifact, and what its run knows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from sdxl_core.additions import TRAINED_FILE
from sdxl_core.config import ModelConfig
from sdxl_core.errors import did_you_mean
from sdxl_core.export_config import ExportConfig
from sdxl_core.training_config.exported_steps import STEPS_FOLDER, step_folder
from tasks.config import ExportSection
from tasks.errors import ConfigError
from tasks.lineage import find_artifact
from tasks.manifest import Json, Ref
from tasks.references import IN_PRODUCTION
from tasks.registry import Registry
from tasks.runs import RunRecord, read_runs
from tasks.store import ArtifactStore
from tasks.yaml_config import build_section, resolve_paths


@dataclass(frozen=True)
class Finished:
    """A train artifact and, if a finished run reaches it, that run's name, configuration and other artifacts."""

    name: str
    training: Ref
    folder: Path
    """Of the train artifact, or of a step in it."""
    config: Mapping[str, Json]
    """As the run's report shows it, with local paths relative to the working folder made absolute; else empty."""
    refs: Mapping[str, Ref]
    step: int | None = None
    """Which of the steps beside the result; None: the result."""

    @property
    def facts(self) -> dict[str, Json]:
        """What the trainer noted: settings, digests of its inputs, steps done."""
        noted: dict[str, Json] = json.loads((self.folder / TRAINED_FILE).read_text(encoding="utf-8"))
        return noted

    @property
    def model(self) -> ModelConfig | None:
        """The base model as the run's configuration names it."""
        section = self.config.get("model")
        try:
            return ModelConfig.model_validate(section) if section else None
        except ValidationError as error:
            raise ConfigError(f"{self.name}: the model that its report names is unreadable: {error}") from None


def find_finished(store: ArtifactStore, what: str, step: int | None = None) -> Finished:
    """`what`: a run's name, for its newest training, `train/KEY` or `production/MODEL`. `step`: one that the training
    exported, or of a model a version.

    Raises:
        ConfigError: there is no such training, step or version, or it is not in the store any more.
    """
    if what.startswith(IN_PRODUCTION):
        return _of_model(store, what.removeprefix(IN_PRODUCTION), step)
    found = _find(store, what)
    if step is None or step == exported_step(found.facts):
        return found
    folder = found.folder / step_folder(step)
    if not folder.is_dir():
        there = [int(path.name) for path in (found.folder / STEPS_FOLDER).glob("*")]
        listed = ", ".join(str(known) for known in sorted({*there, exported_step(found.facts) or step} - {step}))
        raise ConfigError.about(found.name, expected=f"a step that it exported ({listed})", got=step)
    return replace(found, name=f"{found.name}@{step}", folder=folder, step=step)


def exported_step(facts: Mapping[str, Json]) -> int | None:
    """Whose weights an export has, by what the trainer noted of it; None where it did not."""
    step: int | None = facts.get("exported", {}).get("step")
    return step


def _find(store: ArtifactStore, what: str) -> Finished:
    runs = [run for run in read_runs(store) if "train" in run.refs]
    if "/" in what:
        ref = find_artifact(store, what).ref
        if ref.kind != "train":
            raise ConfigError.about(what, expected="a train artifact", got=ref.kind)
        run = next((run for run in runs if run.refs["train"] == ref), None)
        return _finished(store, ref, run, ref.key[:12])
    run = next((run for run in runs if run.name == what), None)
    if run is None:
        names = sorted({run.name for run in runs})
        fix = did_you_mean(what, names) or f"There are: {', '.join(names) or 'none'}."
        raise ConfigError.about(what, expected="the name of a finished run that trained", got="none of it", fix=fix)
    return _finished(store, run.refs["train"], run, run.name)


def _of_model(store: ArtifactStore, name: str, number: int | None) -> Finished:
    registry = Registry(store)
    version = registry.require(name) if number is None else registry.version(name, number)
    refs = {"train": version.training, "report": version.report}
    return finished_of(store, f"{IN_PRODUCTION}{name}@{version.number}", refs)


def finished_of(store: ArtifactStore, name: str, refs: Mapping[str, Ref]) -> Finished:
    """What a run has made, by label, before it is noted as finished. Raises ConfigError as `find_finished`."""
    run = RunRecord(name=name, command="", finished="", refs=dict(refs))
    return _finished(store, refs["train"], run, name)


def _finished(store: ArtifactStore, training: Ref, run: RunRecord | None, name: str) -> Finished:
    if store.find_whole(training.kind, training.key) is None:
        raise ConfigError(f"{name}: its training {training} is not in the store, whole; `run` it again")
    refs = run.refs if run else {}
    report = store.manifest(refs["report"].kind, refs["report"].key) if "report" in refs else None
    shown = report.recipe.params["config"] if report else {}
    return Finished(run.name if run else name, training, store.path(training), resolve_paths(shown, Path.cwd()), refs)


def said_of(config: Mapping[str, Json], overrides: Sequence[str]) -> ExportConfig:
    """What the author says of the result: the run's section `export`, changed by `--set export.KEY=VALUE`.

    Raises:
        ConfigError: a key or value is not what the section holds.
    """
    document = {"export": dict(config.get("export") or {})}
    return build_section(ExportSection, document, overrides, "--set").export
