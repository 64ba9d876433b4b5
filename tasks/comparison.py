"""Stage `comparison`: paired statistics over all scores."""

from __future__ import annotations

from eval.config import EvaluationConfig
from tasks.manifest import Json, Ref
from tasks.stage import Call, Handle, Job, Stage
from tasks.store import ArtifactStore


def _build(job: Job) -> dict[str, Json]:
    from eval.compare import compare

    return compare(
        evaluation=EvaluationConfig.model_validate(job.local["evaluation"]),
        scores=job.inputs["scores"],
        earlier=job.inputs.get("earlier"),
        out=job.out,
    )


STAGE = Stage(kind="comparison", version="5", build=_build, heavy=False)


def is_decided(store: ArtifactStore, comparison: Ref) -> bool:
    """Whether more prompts would be drawn in vain."""
    return bool(store.summary(comparison)["decided"])


def compare(evaluation: EvaluationConfig, scores: Handle, earlier: Handle | None = None) -> Call:
    """`earlier`: of a sequential evaluation, the comparison of the look before.

    Where prompts and weights lie does not enter the key; what they hold, subject and all, came with the scores.
    """
    settings = evaluation.model_dump(
        mode="json", exclude={"prompts", "subject", "metrics", "gallery", "candidate", "baseline"}
    )
    metrics = [{**metric.identity(), "primary": metric.primary} for metric in evaluation.metrics]
    local = {"evaluation": evaluation.model_dump(mode="json")}
    inputs = {"scores": scores} if earlier is None else {"scores": scores, "earlier": earlier}
    return Call(STAGE, "comparison", {"evaluation": settings, "metrics": metrics}, inputs, local)
