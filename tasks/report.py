"""Stage `report`: the comparison as one page that opens offline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.config import GalleryConfig
from sdxl_core.config import DatasetConfig
from tasks.experiment import Experiment
from tasks.manifest import Json, Ref
from tasks.provenance import provenance
from tasks.stage import Call, Handle, Job, Stage
from tasks.yaml_config import to_yaml

REPORT_FILE = "report.html"


def _build(job: Job) -> dict[str, Json]:
    from eval.report import build_report

    return build_report(
        title=job.params["title"],
        comparison=job.inputs["comparison"],
        base=job.inputs["base"],
        candidate=job.inputs["candidate"],
        references=job.inputs["references"],
        training=job.inputs.get("training"),
        learned_from=job.params["learned_from"],
        provenance=provenance(job.store, [Ref.model_validate(ref) for ref in job.local["sources"]]),
        command=job.params["command"],
        config_yaml=to_yaml(job.params["config"]),
        gallery=GalleryConfig.model_validate(job.params["gallery"]),
        names=job.params["names"],
        out=job.out,
    )


STAGE = Stage(kind="report", version="5", build=_build, heavy=False)


@dataclass(frozen=True)
class Shown:
    """What a report shows."""

    comparison: Handle
    sets: Mapping[str, Handle]
    """By role."""
    references: Handle
    training: Handle | None
    """The candidate's train artifact, if it is one."""


def build(experiment: Experiment, shown: Shown) -> Call:
    inputs = {
        "comparison": shown.comparison,
        **shown.sets,
        "references": shown.references,
    }
    if shown.training is not None:
        inputs["training"] = shown.training
    params = {
        "title": experiment.name,
        "names": {role: model.name for role, model in experiment.models.items()},
        "command": experiment.command,
        "config": experiment.shown_config,
        "gallery": experiment.config.evaluation.gallery.model_dump(mode="json"),
        "learned_from": [] if shown.training is None else learned_from(experiment.config.dataset),
    }
    sources = [handle.model_dump() for handle in inputs.values() if isinstance(handle, Ref)]
    return Call(STAGE, "report", params, inputs, {"sources": sources})


def learned_from(dataset: DatasetConfig) -> list[str]:
    """What the data is called: its hub id, or how its folder or file is."""
    return [dataset.path if dataset.source == "hub" else Path(dataset.path).name]
