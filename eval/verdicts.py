"""What the metrics show together: outcomes corrected for their number, and whether more prompts could change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval import stats
from eval.inference import Inference
from eval.result import GateResult, JudgedMetric, Look, MetricOutcome, Outcome, Verdict


def with_outcomes(
    judged: Sequence[Sequence[JudgedMetric]], alpha: float, inference: Inference
) -> list[list[JudgedMetric]]:
    """Correct the primaries for being several, of all candidates together, and say what each metric shows at level
    `alpha`. One sequence a candidate."""
    tested = [metric.p for metrics in judged for metric in metrics if _counts(metric) and metric.p is not None]
    adjusted, count = iter(stats.holm(tested)), len(tested)
    settled = []
    for metrics in judged:
        mine = []
        for metric in metrics:
            level = alpha / count if _counts(metric) else alpha
            d_z = inference.detectable_d_z(metric.prompts, level)
            changes = {
                "p_holm": next(adjusted) if _counts(metric) else None,
                "detectable_d_z": d_z,
                "detectable_delta": None if d_z is None or metric.spread is None else d_z * metric.spread,
            }
            metric = metric.model_copy(update=changes)
            mine.append(metric.model_copy(update={"outcome": _outcome(metric, alpha)}))
        settled.append(mine)
    return settled


def _counts(metric: JudgedMetric) -> bool:
    """Whether it is one of the tests that are corrected for their number."""
    return metric.primary and metric.p is not None


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


def family_confidence(confidence: float, members: int) -> float:
    """At which so many intervals cover together, with `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, members)


def verdict_of_several(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """There is one to promote, or all are to be rejected; none without gates."""
    if "promote" in verdicts:
        return "promote"
    found = set(verdicts)
    return None if found == {None} else "reject" if found == {"reject"} else "inconclusive"


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
