"""The comparison stage: scores of base and candidate -> what can be said about the difference."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from eval import stats
from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.pairing import Key, group_means, paired_scores
from eval.result import (
    COMPARISON,
    Comparison,
    DescribedMetric,
    JudgedMetric,
    MetricFacts,
    MetricOutcome,
    NotRun,
    Outcome,
    SetMetric,
    ShiftedMetric,
)
from eval.samples import PAIR
from eval.scored import Scored, health_of, read_scored
from eval.table import Row, write_scores


def compare(*, evaluation: EvaluationConfig, scores: Path, out: Path) -> dict[str, object]:
    """Compare candidate with base and write comparison.json and scores.parquet into `out`.

    Args:
        evaluation: its metrics decide order and primaries; its confidence, resamples and seed decide the inference.
        scores: score artifact of both image sets.
        out: folder for the results, made if absent.

    Returns:
        A summary: the outcome in one word, each judged metric's difference, and the metrics that were not run.

    Raises:
        EvalError: a metric has no scores, base and candidate do not belong together, or a metric was not run and the
            evaluation is strict.
    """
    found = read_scored(evaluation, scores)
    comparison = _compared(evaluation, found)
    if evaluation.strict and comparison.not_run:
        reasons = "; ".join(f"{metric.name}: {metric.reason}" for metric in comparison.not_run)
        raise EvalError(f"evaluation.strict: not all metrics were run: {reasons}")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False)
    (out / COMPARISON).write_text(text + "\n", encoding="utf-8")
    write_scores(found.rows, out)
    return {
        "outcome": comparison.outcome,
        "prompts": comparison.prompts,
        "delta": {metric.facts.name: metric.delta for metric in comparison.judged},
        "not_run": {metric.name: metric.reason for metric in comparison.not_run},
    }


def _compared(evaluation: EvaluationConfig, found: Scored) -> Comparison:
    judged: list[JudgedMetric] = []
    described: list[DescribedMetric] = []
    shifted: list[ShiftedMetric] = []
    sets: list[SetMetric] = []
    not_run: list[NotRun] = []
    for metric in evaluation.metrics:
        facts, rows = found.facts[metric.id], [row for row in found.rows if row.metric_id == metric.id]
        reason = found.not_run.get(metric.id, "") or _nothing(facts, rows)
        if reason:
            titles = {"title": facts.title, "licence": facts.licence}
            not_run.append(NotRun(name=metric.id, primary=metric.primary, reason=reason, **titles))
        elif facts.scored == "set":
            sets.append(_of_sets(rows, facts))
        elif facts.scored == "pair":
            described.append(_describe(rows, facts, evaluation))
        elif facts.direction == 0:
            shifted.append(_shift(rows, facts, evaluation))
        else:
            judged.append(_judge(rows, facts, metric.primary, evaluation))
    judged = _with_verdicts(judged, 1 - evaluation.confidence)
    outcomes = [metric.outcome for metric in judged if metric.primary]
    keys = {key for mine in found.pictures.values() for key in mine}
    return Comparison(
        outcome="not_judged" if any(metric.primary for metric in not_run) else _overall(outcomes),
        confidence=evaluation.confidence,
        resamples=evaluation.resamples,
        seed=evaluation.seed,
        prompts=len({prompt for prompt, _ in keys}),
        replicates=len({replicate for _, replicate in keys}),
        judged=tuple(judged),
        described=tuple(described),
        shifted=tuple(shifted),
        sets=tuple(sets),
        not_run=tuple(not_run),
        health=health_of(found, {metric.name for metric in not_run}),
    )


def _nothing(facts: MetricFacts, rows: Sequence[Row]) -> str:
    """Why there is nothing to compare; empty where there is something."""
    if facts.scored == "set":
        return "" if any(row.is_scored for row in rows) else _set_reasons(rows)
    sides: dict[str, set[Key]] = defaultdict(set)
    for row in rows:
        if row.is_scored:
            sides[row.model_id].add(row.key)
    if sides[PAIR] or sides["base"] & sides["candidate"]:
        return ""
    reasons = "; ".join(sorted({row.reason for row in rows if row.reason})) or "no rows"
    what = "no pair of pictures" if facts.scored == "pair" else "no prompt"
    return f"{what} is scored on both sides ({reasons})"


def _seed(evaluation: EvaluationConfig, name: str) -> list[int]:
    """Each metric draws by itself, so that adding one changes no other's interval."""
    return [evaluation.seed, zlib.crc32(name.encode())]


def _judge(rows: Iterable[Row], facts: MetricFacts, primary: bool, evaluation: EvaluationConfig) -> JudgedMetric:
    """One metric by itself; `_with_verdicts` adds what depends on the others."""
    paired = paired_scores(rows, facts.name)
    improvement = facts.direction * paired.delta
    delta_P, improvement_P = paired.per_prompt(paired.delta), paired.per_prompt(improvement)
    share = stats.win_share(improvement, facts.tie)
    share_P = paired.per_prompt(share)
    seed = _seed(evaluation, facts.name)
    interval = stats.mean_interval(delta_P, evaluation.confidence, evaluation.resamples, seed)
    spread = stats.spread(delta_P)
    bounds = None
    if spread is not None and interval is not None:
        low, high = sorted(facts.direction * bound / spread for bound in (interval.low, interval.high))
        bounds = (low, high)
    return JudgedMetric(
        facts=facts,
        primary=primary,
        prompts=len(delta_P),
        pairs=len(paired.keys),
        base_mean=float(paired.per_prompt(paired.base).mean()),
        candidate_mean=float(paired.per_prompt(paired.candidate).mean()),
        delta=float(delta_P.mean()),
        delta_interval=interval,
        spread=spread,
        d_z=None if spread is None else float(improvement_P.mean()) / spread,
        d_z_interval=bounds,
        p=stats.sign_flip_p(delta_P, evaluation.resamples, seed),
        p_holm=None,
        wins=int((share == 1).sum()),
        ties=int((share == 0.5).sum()),
        losses=int((share == 0).sum()),
        win_rate=float(share_P.mean()),
        win_rate_interval=stats.win_rate_interval(share_P, evaluation.confidence),
        detectable_d_z=None,
        detectable_delta=None,
        outcome="too_few_prompts",
    )


def _with_verdicts(judged: Sequence[JudgedMetric], alpha: float) -> list[JudgedMetric]:
    """Correct the primaries for being several, and say what each metric shows at level `alpha`."""
    primaries = [metric for metric in judged if metric.primary and metric.p is not None]
    adjusted = stats.holm([metric.p for metric in primaries if metric.p is not None])
    holm_p = {metric.facts.name: p for metric, p in zip(primaries, adjusted, strict=True)}
    settled = []
    for metric in judged:
        level = alpha / len(primaries) if metric.facts.name in holm_p else alpha
        d_z = stats.minimum_detectable_effect(metric.prompts, level)
        changes = {
            "p_holm": holm_p.get(metric.facts.name),
            "detectable_d_z": d_z,
            "detectable_delta": None if d_z is None or metric.spread is None else d_z * metric.spread,
        }
        metric = metric.model_copy(update=changes)
        settled.append(metric.model_copy(update={"outcome": _outcome(metric, alpha)}))
    return settled


def _outcome(metric: JudgedMetric, alpha: float) -> MetricOutcome:
    if metric.decisive_p is None:
        return "too_few_prompts"
    if metric.decisive_p > alpha:
        return "no_difference"
    return "better" if metric.facts.direction * metric.delta > 0 else "worse"


def _overall(outcomes: Sequence[MetricOutcome]) -> Outcome:
    """From the primaries alone."""
    found = set(outcomes)
    if not found or found == {"too_few_prompts"}:
        return "not_judged"
    if {"better", "worse"} <= found:
        return "mixed"
    if "better" in found:
        return "better"
    return "worse" if "worse" in found else "no_difference"


def _describe(rows: Sequence[Row], facts: MetricFacts, evaluation: EvaluationConfig) -> DescribedMetric:
    mine = [row for row in rows if row.is_scored]
    values = np.array([row.value for row in mine])
    mean_P = group_means([row.prompt_id for row in mine], values)
    seed = _seed(evaluation, facts.name)
    return DescribedMetric(
        facts=facts,
        prompts=len(mean_P),
        pairs=len(mine),
        mean=float(mean_P.mean()),
        mean_interval=stats.mean_interval(mean_P, evaluation.confidence, evaluation.resamples, seed),
        lowest=float(values.min()),
        highest=float(values.max()),
    )


def _shift(rows: Sequence[Row], facts: MetricFacts, evaluation: EvaluationConfig) -> ShiftedMetric:
    paired = paired_scores(rows, facts.name)
    delta_P = paired.per_prompt(paired.delta)
    seed = _seed(evaluation, facts.name)
    return ShiftedMetric(
        facts=facts,
        prompts=len(delta_P),
        pairs=len(paired.keys),
        base_mean=float(paired.per_prompt(paired.base).mean()),
        candidate_mean=float(paired.per_prompt(paired.candidate).mean()),
        delta=float(delta_P.mean()),
        delta_interval=stats.mean_interval(delta_P, evaluation.confidence, evaluation.resamples, seed),
    )


def _of_sets(rows: Sequence[Row], facts: MetricFacts) -> SetMetric:
    values = {row.model_id: row.value for row in rows if row.is_scored}
    return SetMetric(facts=facts, base=values.get("base"), candidate=values.get("candidate"), reason=_set_reasons(rows))


def _set_reasons(rows: Sequence[Row]) -> str:
    """Why sides have no number; what holds for both is said once."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.reason:
            reasons[row.reason].append(row.model_id)
    return "; ".join(f"{' and '.join(sorted(sides))}: {reason}" for reason, sides in reasons.items())
