"""A training that has ended, found by the name of its run or by its artifact, and what its run knows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sdxl_core.additions import TRAINED_FILE
from sdxl_core.config import ModelConfig
from sdxl_core.errors import did_you_mean
from sdxl_core.export_config import ExportConfig
from tasks.config import ExportSection
from tasks.errors import ConfigError
from tasks.lineage import find_artifact
from tasks.manifest import Json, Ref
from tasks.runs import RunRecord, read_runs
from tasks.store import ArtifactStore
from tasks.yaml_config import build_section, resolve_paths


@dataclass(frozen=True)
class Finished:
    """A train artifact and, if a finished run reaches it, that run's name, configuration and other artifacts."""

    name: str
    training: Ref
    folder: Path
    """Of the train artifact."""
    config: Mapping[str, Json]
    """As the run's report shows it, with local paths relative to the working folder made absolute; else empty."""
    refs: Mapping[str, Ref]

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


def find_finished(store: ArtifactStore, what: str) -> Finished:
    """`what`: a run's name, for its newest training, or `train/KEY`.

    Raises:
        ConfigError: there is no such training, or it is not in the store any more.
    """
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
