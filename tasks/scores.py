"""Stage `scores`: all metrics over the pictures of base and candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from eval.config import EvaluationConfig
from tasks.errors import ConfigError
from tasks.manifest import Json
from tasks.stage import Call, Cells, Handle, Job, Stage
from tasks.validation_scores import METRICS
from tasks.weights import MetricWeights

if TYPE_CHECKING:
    from eval.score import Weights


def _build(job: Job) -> dict[str, Json]:
    from eval.score import score_metrics

    return score_metrics(
        metrics=METRICS.validate_python(job.local["metrics"]),
        weights=weights_of(job),
        sets={role: place for role, place in job.inputs.items() if role != "references"},
        references=job.inputs["references"],
        out=job.out,
        cells=job.store.cells("scores"),
        device=job.device,
        progress=job.progress,
    )


def _cells(job: Job) -> Cells:
    from eval.open_questions import OpenQuestions

    return OpenQuestions(
        metrics=METRICS.validate_python(job.local["metrics"]),
        weights=weights_of(job),
        sets={role: place for role, place in job.inputs.items() if role != "references"},
        references=job.inputs["references"],
        cells=job.store.cells("scores"),
        device=job.device,
    )


def weights_of(job: Job) -> dict[str, Weights]:
    """By metric id, of a job whose call says them as `score` does."""
    from eval.score import Weights

    weights = {
        name: Weights(
            places={field: Path(place) for field, place in job.local["places"][name].items()},
            digests=known["digests"],
            missing=known["missing"],
        )
        for name, known in job.params["weights"].items()
    }
    _require_unchanged(weights, job.store.digest_file)
    return weights


def _require_unchanged(weights: Mapping[str, Weights], digest: Callable[[Path], str]) -> None:
    """Raises ConfigError where a file is not the one that the key names, as when people go on voting meanwhile."""
    for name, found in weights.items():
        for field, place in found.places.items():
            if place.is_file() and digest(place) != found.digests[field]:
                raise ConfigError(f"{name}: {place} was changed while this ran; run it again, which reuses the rest")


STAGE = Stage(kind="scores", version="6", build=_build, cells=_cells)


def score(
    evaluation: EvaluationConfig,
    weights: Mapping[str, MetricWeights],
    sets: Mapping[str, Handle],
    references: Handle,
    label: str = "scores",
) -> Call:
    """`sets` are image sets by role, `references` is the dataset.

    What is missing for a metric is in the key: once it is there, the metric is run.
    """
    params = {"metrics": [metric.identity() for metric in evaluation.metrics], **named_weights(weights)}
    local = {"metrics": [metric.model_dump(mode="json") for metric in evaluation.metrics], **placed_weights(weights)}
    inputs = {**sets, "references": references}
    return Call(STAGE, label, params, inputs, local)


def named_weights(weights: Mapping[str, MetricWeights]) -> dict[str, Json]:
    """What of them belongs in the key of a call whose job `weights_of` understands."""
    return {
        "weights": {name: {"digests": dict(found.digests), "missing": found.missing} for name, found in weights.items()}
    }


def placed_weights(weights: Mapping[str, MetricWeights]) -> dict[str, Json]:
    """And what its build needs beside."""
    return {"places": {name: dict(found.places) for name, found in weights.items()}}
