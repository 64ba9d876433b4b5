"""The comparison stage: scores of base and candidate -> what can be said about the difference."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from eval import stats
from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.pairing import group_means, paired_scores
from eval.result import (
    COMPARISON,
    Comparison,
    DescribedMetric,
    Health,
    JudgedMetric,
    MetricFacts,
    MetricOutcome,
    Outcome,
    Unscored,
)
from eval.score import METRIC_FILE
from eval.table import Row, read_scores, write_scores


def compare(*, evaluation: EvaluationConfig, scores: Sequence[Path], out: Path) -> dict[str, object]:
    """Compare candidate with base and write comparison.json and scores.parquet into `out`.

    Args:
        evaluation: its metrics decide order and primaries; its confidence, resamples and seed decide the inference.
        scores: score artifacts, base's and candidate's for judging metrics, one of the pair for describing ones.
        out: folder for the results, made if absent.

    Returns:
        A summary: the outcome in one word and each judged metric's difference.

    Raises:
        EvalError: a metric has no scores, or base and candidate do not belong together.
    """
    rows, facts, truncated = _read(evaluation, scores)
    judged = [
        _judge(rows, facts[metric.id], metric.primary, evaluation)
        for metric in evaluation.metrics
        if metric.direction != 0
    ]
    described = [
        _describe(rows, facts[metric.id], evaluation) for metric in evaluation.metrics if metric.direction == 0
    ]
    judged = _with_verdicts(judged, 1 - evaluation.confidence)
    keys = {row.key for row in rows}
    comparison = Comparison(
        outcome=_overall([metric.outcome for metric in judged if metric.primary]),
        confidence=evaluation.confidence,
        resamples=evaluation.resamples,
        seed=evaluation.seed,
        prompts=len({prompt for prompt, _ in keys}),
        replicates=len({replicate for _, replicate in keys}),
        judged=tuple(judged),
        described=tuple(described),
        health=_health(rows, truncated),
    )
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False)
    (out / COMPARISON).write_text(text + "\n", encoding="utf-8")
    write_scores(rows, out)
    return {
        "outcome": comparison.outcome,
        "prompts": comparison.prompts,
        "delta": {metric.facts.name: metric.delta for metric in judged},
    }


def _read(
    evaluation: EvaluationConfig, scores: Sequence[Path]
) -> tuple[list[Row], dict[str, MetricFacts], dict[str, set[str]]]:
    """Rows in the order of the configuration's metrics, each metric's facts, and its truncated prompts."""
    order = {metric.id: place for place, metric in enumerate(evaluation.metrics)}
    facts: dict[str, MetricFacts] = {}
    truncated: dict[str, set[str]] = {}
    rows: list[Row] = []
    for folder in scores:
        described = json.loads((folder / METRIC_FILE).read_text(encoding="utf-8"))
        shortened = described.pop("truncated_prompts")
        found = MetricFacts.model_validate(described)
        if found.name not in order:
            raise EvalError(f"scores of metric {found.name!r} were given; the evaluation has {sorted(order)}")
        if facts.setdefault(found.name, found) != found:
            raise EvalError(
                f"metric {found.name}: base and candidate were scored with different weights or versions; "
                "score both again"
            )
        truncated.setdefault(found.name, set()).update(shortened)
        rows.extend(read_scores(folder))
    if missing := sorted(order.keys() - facts.keys()):
        raise EvalError(f"no scores of metric {', '.join(missing)}; the evaluation asks for {sorted(order)}")
    rows.sort(key=lambda row: (order[row.metric_id], row.model_id))  # stable: pictures keep their order
    return rows, facts, truncated


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


def _describe(rows: Iterable[Row], facts: MetricFacts, evaluation: EvaluationConfig) -> DescribedMetric:
    mine = [row for row in rows if row.metric_id == facts.name and row.is_scored]
    if not mine:
        raise EvalError(f"metric {facts.name}: no pair of pictures could be scored")
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


def _health(rows: Sequence[Row], truncated: dict[str, set[str]]) -> Health:
    digests: dict[str, dict[tuple[str, int], str]] = {"base": {}, "candidate": {}}
    for row in rows:
        sides = ("base", "candidate") if row.model_id == "pair" else (row.model_id,)
        for model_id, digest in zip(sides, row.image_digest.split("+"), strict=True):
            digests[model_id][row.key] = digest
    base, candidate = digests["base"], digests["candidate"]
    absent = [
        Unscored(prompt_id=prompt, replicate=replicate, model_id=model_id, metric="all", reason="not in the image set")
        for model_id, mine, other in (("base", base, candidate), ("candidate", candidate, base))
        for prompt, replicate in other
        if (prompt, replicate) not in mine
    ]
    failed = [
        Unscored(
            prompt_id=row.prompt_id,
            replicate=row.replicate,
            model_id=row.model_id,
            metric=row.metric_id,
            reason=row.reason,
        )
        for row in rows
        if not row.is_scored
    ]
    return Health(
        pictures={model_id: len(images) for model_id, images in digests.items()},
        unscored=(*absent, *failed),
        truncated_prompts={name: tuple(sorted(prompts)) for name, prompts in truncated.items() if prompts},
        repeated_pictures={model_id: len(mine) - len(set(mine.values())) for model_id, mine in digests.items()},
        identical_pairs=sum(candidate.get(key) == digest for key, digest in base.items()),
    )
