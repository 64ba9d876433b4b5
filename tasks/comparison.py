"""Stage `comparison`: paired statistics over all scores."""

from __future__ import annotations

from eval.config import EvaluationConfig
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage


def _build(job: Job) -> dict[str, Json]:
    from eval.compare import compare

    return compare(
        evaluation=EvaluationConfig.model_validate(job.local["evaluation"]),
        scores=job.inputs["scores"],
        out=job.out,
    )


STAGE = Stage(kind="comparison", version="2", build=_build, heavy=False)


def compare(evaluation: EvaluationConfig, scores: Handle) -> Call:
    """Where prompts and weights lie does not enter the key; what they hold, subject and all, came with the scores."""
    settings = evaluation.model_dump(mode="json", exclude={"prompts", "subject", "metrics", "gallery"})
    metrics = [{**metric.identity(), "primary": metric.primary} for metric in evaluation.metrics]
    local = {"evaluation": evaluation.model_dump(mode="json")}
    return Call(STAGE, "comparison", {"evaluation": settings, "metrics": metrics}, {"scores": scores}, local)
