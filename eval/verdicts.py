"""What the metrics show together: outcomes corrected for their number, and whether more prompts could change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval import stats
from eval.inference import Inference
from eval.result import GateResult, JudgedMetric, Look, MetricOutcome, Outcome


def with_outcomes(judged: Sequence[JudgedMetric], alpha: float, inference: Inference) -> list[JudgedMetric]:
    """Correct the primaries for being several, and say what each metric shows at level `alpha`."""
    primaries = [metric for metric in judged if metric.primary and metric.p is not None]
    adjusted = stats.holm([metric.p for metric in primaries if metric.p is not None])
    holm_p = {metric.facts.name: p for metric, p in zip(primaries, adjusted, strict=True)}
    settled = []
    for metric in judged:
        level = alpha / len(primaries) if metric.facts.name in holm_p else alpha
        d_z = inference.detectable_d_z(metric.prompts, level)
        changes = {
            "p_holm": holm_p.get(metric.facts.name),
            "detectable_d_z": d_z,
            "detectable_delta": None if d_z is None or metric.spread is None else d_z * metric.spread,
        }
        metric = metric.model_copy(update=changes)
        settled.append(metric.model_copy(update={"outcome": _outcome(metric, alpha)}))
    return settled


def _outcome(metric: JudgedMetric, alpha: float) -> MetricOutcome:
    if metric.decisive_p is None or metric.prompts < stats.fewest_prompts(alpha):
        return "too_few_prompts"
    if metric.decisive_p > alpha:
        return "no_difference"
    return "better" if metric.facts.direction * metric.delta > 0 else "worse"


def overall(outcomes: Sequence[MetricOutcome]) -> Outcome:
    """From the primaries alone."""
    found = set(outcomes)
    if not found or found == {"too_few_prompts"}:
        return "not_judged"
    if {"better", "worse"} <= found:
        return "mixed"
    if "better" in found:
        return "better"
    return "worse" if "worse" in found else "no_difference"


def family_confidence(confidence: float, primaries: int) -> float:
    """At which intervals of all primaries cover together, with `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, primaries)


def is_decided(
    look: Look,
    primaries: Sequence[JudgedMetric],
    gates: Sequence[GateResult],
    indifferent: Mapping[str, float],
) -> bool:
    """Whether a sequential evaluation may stop: every primary has a winner or differs by too little to matter, and
    every gate that can be judged has passed or failed."""
    settled = (_is_settled(metric, look, indifferent) for metric in primaries)
    return all(settled) and all(gate.outcome != "undecided" or gate.observed is None for gate in gates)


def _is_settled(metric: JudgedMetric, look: Look, indifferent: Mapping[str, float]) -> bool:
    if metric.outcome in ("better", "worse"):
        return True
    interval, difference = look.intervals[metric.facts.name], indifferent.get(metric.facts.name)
    if interval is None or difference is None:
        return False
    return -difference <= interval.low and interval.high <= difference
