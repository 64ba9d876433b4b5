"""Stage `report`: the comparison as one page that opens offline."""

from __future__ import annotations

from dataclasses import dataclass

from eval.config import GalleryConfig
from tasks.experiment import Experiment
from tasks.lineage import provenance
from tasks.manifest import Json, Ref
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
        provenance=provenance(job.store, [Ref.model_validate(ref) for ref in job.local["sources"]]),
        command=job.params["command"],
        config_yaml=to_yaml(job.params["config"]),
        gallery=GalleryConfig.model_validate(job.params["gallery"]),
        out=job.out,
    )


STAGE = Stage(kind="report", version="3", build=_build, heavy=False)


@dataclass(frozen=True)
class Shown:
    """What a report shows."""

    comparison: Handle
    base: Handle
    candidate: Handle
    references: Handle
    training: Handle | None
    """The train artifact; None for an adapter from elsewhere."""


def build(experiment: Experiment, shown: Shown) -> Call:
    inputs = {
        "comparison": shown.comparison,
        "base": shown.base,
        "candidate": shown.candidate,
        "references": shown.references,
    }
    if shown.training is not None:
        inputs["training"] = shown.training
    params = {
        "title": experiment.name,
        "command": experiment.command,
        "config": experiment.shown_config,
        "gallery": experiment.config.evaluation.gallery.model_dump(mode="json"),
    }
    sources = [handle.model_dump() for handle in inputs.values() if isinstance(handle, Ref)]
    return Call(STAGE, "report", params, inputs, {"sources": sources})
