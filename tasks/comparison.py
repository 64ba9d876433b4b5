"""Stages `comparison` and `comparisons`: paired statistics over all scores of one candidate, or of several at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.config import EvaluationConfig
from tasks.manifest import Json, Ref
from tasks.stage import Call, Handle, Job, Stage
from tasks.store import ArtifactStore

EARLIER = "earlier"
"""Names the input that is the look before, of a sequential evaluation. No candidate is called so."""
_ELSEWHERE = {"prompts", "subject", "metrics", "gallery", "candidate", "candidates", "baseline", "trade_off"}
"""Settings that came with the scores, or decide no number."""


def _build(job: Job) -> dict[str, Json]:
    from eval.compare import compare

    return compare(
        evaluation=EvaluationConfig.model_validate(job.local["evaluation"]),
        scores=job.inputs["scores"],
        earlier=job.inputs.get(EARLIER),
        out=job.out,
    )


def _build_several(job: Job) -> dict[str, Json]:
    from eval.compare import compare_several

    return compare_several(
        evaluation=EvaluationConfig.model_validate(job.local["evaluation"]),
        scores={name: job.inputs[name] for name in job.params["candidates"]},
        earlier=job.inputs.get(EARLIER),
        out=job.out,
    )


STAGE = Stage(kind="comparison", version="5", build=_build, heavy=False)
SEVERAL = Stage(kind="comparisons", version="1", build=_build_several, heavy=False)


def is_decided(store: ArtifactStore, comparison: Ref) -> bool:
    """Whether more prompts would be drawn in vain."""
    return bool(store.summary(comparison)["decided"])


def chosen(store: ArtifactStore, comparisons: Ref) -> str:
    """The candidate that `selection` chose."""
    return str(store.summary(comparisons)["chosen"])


def compare(evaluation: EvaluationConfig, scores: Handle, earlier: Handle | None = None) -> Call:
    """`earlier`: of a sequential evaluation, the comparison of the look before.

    Where prompts and weights lie does not enter the key; what they hold, subject and all, came with the scores.
    """
    params, local = _settings(evaluation)
    return Call(STAGE, "comparison", params, _with_earlier({"scores": scores}, earlier), local)


def compare_several(
    label: str, evaluation: EvaluationConfig, scores: Mapping[str, Handle], earlier: Handle | None = None
) -> Call:
    """The same of several candidates' scores, by candidate."""
    params, local = _settings(evaluation)
    return Call(SEVERAL, label, {**params, "candidates": list(scores)}, _with_earlier(scores, earlier), local)


def _settings(evaluation: EvaluationConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """-> params, local."""
    settings = evaluation.model_dump(mode="json", exclude=_ELSEWHERE)
    if evaluation.selection is None:
        del settings["selection"]
    metrics = [{**metric.identity(), "primary": metric.primary} for metric in evaluation.metrics]
    return {"evaluation": settings, "metrics": metrics}, {"evaluation": evaluation.model_dump(mode="json")}


def _with_earlier(scores: Mapping[str, Handle], earlier: Handle | None) -> dict[str, Handle]:
    return dict(scores) if earlier is None else {**scores, EARLIER: earlier}
