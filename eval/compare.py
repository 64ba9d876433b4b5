"""The comparison stage: scores of base and candidate -> what can be said about the difference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.findings import describe, judge, of_sets, seed_of, shift
from eval.gates import judge_gate, not_judged, verdict_of
from eval.inference import inference_of
from eval.pairing import storyboards_among
from eval.result import (
    COMPARISON,
    Comparison,
    DescribedMetric,
    JudgedMetric,
    Look,
    NotRun,
    SetMetric,
    ShiftedMetric,
    read_comparison,
)
from eval.samples import NO_STORYBOARDS
from eval.scored import Scored, health_of, nothing_scored, read_scored
from eval.table import write_scores
from eval.verdicts import family_confidence, is_decided, overall, verdict_of_several, with_outcomes


def compare(*, evaluation: EvaluationConfig, scores: Path, out: Path, earlier: Path | None = None) -> dict[str, object]:
    """Compare candidate with base and write comparison.json and scores.parquet into `out`.

    Args:
        evaluation: its metrics decide order and primaries; its confidence, resamples and seed decide the inference.
        scores: score artifact of both image sets.
        out: folder for the results, made if absent.
        earlier: of a sequential evaluation, the comparison of the look before.

    Returns:
        A summary: outcome and verdict in one word each, whether more prompts would be drawn in vain, each judged
        metric's difference, and the metrics that were not run.

    Raises:
        EvalError: a metric has no scores, base and candidate do not belong together, or a metric was not run and the
            evaluation is strict.
    """
    found = read_scored(evaluation, scores)
    comparison = compared(evaluation, found, read_comparison(earlier).looks if earlier else ())
    return _write(evaluation, found, comparison, out)


def compare_several(
    *, evaluation: EvaluationConfig, scores: Mapping[str, Path], out: Path, earlier: Path | None = None
) -> dict[str, object]:
    """The same for several candidates, each into a folder of its name, corrected for all of them together.

    Args:
        scores: candidate -> score artifact of the base and it.
        earlier: what this wrote at the look before.

    Returns:
        By candidate what `compare` returns, the verdict in one word, and whether more prompts would be drawn in vain.
        With `selection`, which candidate is chosen.
    """
    found = {name: read_scored(evaluation, folder) for name, folder in scores.items()}
    looks = {name: read_comparison(earlier / name).looks if earlier else () for name in scores}
    comparisons = compared_together(evaluation, found, looks)
    summaries = {name: _write(evaluation, found[name], one, out / name) for name, one in comparisons.items()}
    chosen = {} if evaluation.selection is None else {"chosen": choose(evaluation.chosen_by, comparisons)}
    return {
        "candidates": summaries,
        "verdict": verdict_of_several([one.verdict for one in comparisons.values()]),
        "decided": all(one.decided for one in comparisons.values()),
        **chosen,
    }


def choose(by: str, comparisons: Mapping[str, Comparison]) -> str:
    """The candidate with the largest mean improvement of a metric; of equal ones, the first.

    Raises:
        EvalError: the metric was not run.
    """
    improvements = {
        name: metric.facts.direction * metric.delta
        for name, comparison in comparisons.items()
        for metric in comparison.judged
        if metric.facts.name == by
    }
    if len(improvements) < len(comparisons):
        reasons = {metric.reason for one in comparisons.values() for metric in one.not_run if metric.name == by}
        raise EvalError(f"evaluation.selection.by: {by} cannot choose a candidate: {'; '.join(sorted(reasons))}")
    return max(improvements, key=lambda name: improvements[name])


def _write(evaluation: EvaluationConfig, found: Scored, comparison: Comparison, out: Path) -> dict[str, object]:
    failed = [metric for metric in comparison.not_run if metric.reason != NO_STORYBOARDS]
    if evaluation.strict and failed:
        reasons = "; ".join(f"{metric.name}: {metric.reason}" for metric in failed)
        raise EvalError(f"evaluation.strict: not all metrics were run: {reasons}")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False)
    (out / COMPARISON).write_text(text + "\n", encoding="utf-8")
    write_scores(found.rows, out)
    return {
        "outcome": comparison.outcome,
        "verdict": comparison.verdict,
        "decided": comparison.decided,
        "prompts": comparison.prompts,
        "delta": {metric.facts.name: metric.delta for metric in comparison.judged},
        "not_run": {metric.name: metric.reason for metric in comparison.not_run},
    }


def compared(evaluation: EvaluationConfig, found: Scored, looks: Sequence[Look] = ()) -> Comparison:
    """What scores say; `looks`: the earlier ones of a sequential evaluation."""
    return compared_together(evaluation, {"candidate": found}, {"candidate": looks})["candidate"]


def compared_together(
    evaluation: EvaluationConfig, found: Mapping[str, Scored], looks: Mapping[str, Sequence[Look]]
) -> dict[str, Comparison]:
    """By candidate, what its scores say where all of them are judged at once."""
    measured = [_measured(evaluation, mine) for mine in found.values()]
    corrected = with_outcomes([one.judged for one in measured], 1 - evaluation.confidence, inference_of(evaluation))
    tests = sum(metric.primary for judged in corrected for metric in judged)
    comparisons = {}
    for name, one, judged in zip(found, measured, corrected, strict=True):
        seen = tuple(looks[name])
        if evaluation.stop == "sequential":
            seen = (*seen, _look(found[name], judged, tests, evaluation))
        comparisons[name] = _comparison(evaluation, found[name], replace(one, judged=judged), seen, len(found))
    return comparisons


@dataclass(frozen=True)
class _Measured:
    """By kind, what every metric found."""

    judged: list[JudgedMetric] = field(default_factory=list)
    described: list[DescribedMetric] = field(default_factory=list)
    shifted: list[ShiftedMetric] = field(default_factory=list)
    sets: list[SetMetric] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)


def _measured(evaluation: EvaluationConfig, found: Scored) -> _Measured:
    """Each metric by itself."""
    measured = _Measured()
    for metric in evaluation.metrics:
        facts = found.facts[metric.id]
        reason = found.not_run.get(metric.id, "") or nothing_scored(facts, found.rows_of(metric.id))
        if reason:
            titles = {"metric": facts.metric, "title": facts.title, "licence": facts.licence}
            measured.not_run.append(NotRun(name=metric.id, primary=metric.primary, reason=reason, **titles))
        elif facts.scored == "set":
            measured.sets.append(of_sets(found, metric.id))
        elif facts.scored == "pair":
            measured.described.append(describe(found, metric.id, evaluation))
        elif facts.direction == 0:
            measured.shifted.append(shift(found, metric.id, evaluation))
        else:
            measured.judged.append(judge(found, metric.id, metric.primary, evaluation))
    return measured


def _comparison(
    evaluation: EvaluationConfig, found: Scored, measured: _Measured, looks: tuple[Look, ...], candidates: int
) -> Comparison:
    primaries = [metric for metric in measured.judged if metric.primary]
    reasons = {metric.name: metric.reason for metric in measured.not_run}
    gates = tuple(
        not_judged(gate, found, evaluation, reasons[gate.metric], candidates)
        if gate.metric in reasons
        else judge_gate(gate, found, evaluation, candidates)
        for gate in evaluation.gates
    )
    keys = {key for mine in found.pictures.values() for key in mine}
    return Comparison(
        outcome="not_judged"
        if any(metric.primary for metric in measured.not_run)
        else overall([metric.outcome for metric in primaries]),
        confidence=evaluation.confidence,
        candidates=candidates,
        resamples=evaluation.resamples,
        seed=evaluation.seed,
        prompts=len(found.units()),
        storyboards=storyboards_among(found.units()),
        replicates=len({replicate for _, replicate in keys}),
        judged=tuple(measured.judged),
        described=tuple(measured.described),
        shifted=tuple(measured.shifted),
        sets=tuple(measured.sets),
        not_run=tuple(measured.not_run),
        gates=gates,
        verdict=verdict_of(gates),
        looks=looks,
        decided=not looks or is_decided(looks[-1], primaries, gates, evaluation.sequential.indifferent),
        health=health_of(found, set(reasons)),
    )


def _look(found: Scored, judged: Sequence[JudgedMetric], tests: int, evaluation: EvaluationConfig) -> Look:
    """Intervals of the primaries that hold for all `tests` at once, other candidates' included."""
    confidence, inference = family_confidence(evaluation.confidence, tests), inference_of(evaluation)
    intervals = {}
    for facts in (metric.facts for metric in judged if metric.primary):
        paired, seed = found.paired(facts.name), seed_of(evaluation, facts.name)
        intervals[facts.name] = inference.mean(paired.per_prompt(paired.delta), confidence, seed, binary=facts.binary)
    return Look(prompts=len(found.units()), intervals=intervals)
