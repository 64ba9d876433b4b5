"""Stage `scores`: one metric over one image set, or over both for metrics of difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from eval.scorers import MetricConfig
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.weights import MetricWeights

_METRIC: TypeAdapter[MetricConfig] = TypeAdapter(MetricConfig)

Role = Literal["base", "candidate"]


def _build(job: Job) -> dict[str, Json]:
    from eval.score import score_metric

    return score_metric(
        metric=_METRIC.validate_python(job.local["metric"]),
        weights={name: Path(place) for name, place in job.local["weights"].items()},
        weights_digests=job.params["weights"],
        base=job.inputs.get("base"),
        candidate=job.inputs.get("candidate"),
        references=job.inputs.get("references"),
        out=job.out,
        cells=job.store.cells("scores"),
        device=job.device,
        progress=job.progress,
    )


STAGE = Stage(kind="scores", version="1", build=_build)


def score(metric: MetricConfig, weights: MetricWeights, images: Mapping[Role, Handle], references: Handle) -> Call:
    """`images` holds what is scored: one image set, or base and candidate for a pair metric."""
    inputs: dict[str, Handle] = {role: images[role] for role in images}
    if metric.needs == "references":
        inputs["references"] = references
    params = {"metric": metric.identity(), "weights": dict(weights.digests), "of": sorted(images)}
    local = {"metric": metric.model_dump(mode="json"), "weights": dict(weights.places)}
    return Call(STAGE, f"scores/{metric.id}/{'-'.join(sorted(images))}", params, inputs, local)


def image_sets(metric: MetricConfig, base: Handle, candidate: Handle) -> tuple[dict[Role, Handle], ...]:
    """What a metric is asked about: both sets at once if it measures a difference, else each by itself."""
    if metric.needs == "pair":
        return ({"base": base, "candidate": candidate},)
    return {"base": base}, {"candidate": candidate}
