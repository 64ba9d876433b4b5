"""The comparison stage: scores of base and candidate -> what can be said about the difference."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from eval.verdicts import family_confidence, is_decided, overall, with_outcomes


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
    judged: list[JudgedMetric] = []
    described: list[DescribedMetric] = []
    shifted: list[ShiftedMetric] = []
    sets: list[SetMetric] = []
    not_run: list[NotRun] = []
    for metric in evaluation.metrics:
        facts = found.facts[metric.id]
        reason = found.not_run.get(metric.id, "") or nothing_scored(facts, found.rows_of(metric.id))
        if reason:
            titles = {"metric": facts.metric, "title": facts.title, "licence": facts.licence}
            not_run.append(NotRun(name=metric.id, primary=metric.primary, reason=reason, **titles))
        elif facts.scored == "set":
            sets.append(of_sets(found, metric.id))
        elif facts.scored == "pair":
            described.append(describe(found, metric.id, evaluation))
        elif facts.direction == 0:
            shifted.append(shift(found, metric.id, evaluation))
        else:
            judged.append(judge(found, metric.id, metric.primary, evaluation))
    judged = with_outcomes(judged, 1 - evaluation.confidence, inference_of(evaluation))
    primaries = [metric for metric in judged if metric.primary]
    reasons = {metric.name: metric.reason for metric in not_run}
    gates = tuple(
        not_judged(gate, found, evaluation, reasons[gate.metric])
        if gate.metric in reasons
        else judge_gate(gate, found, evaluation)
        for gate in evaluation.gates
    )
    if evaluation.stop == "sequential":
        looks = (*looks, _look(found, primaries, evaluation))
    keys = {key for mine in found.pictures.values() for key in mine}
    return Comparison(
        outcome="not_judged"
        if any(metric.primary for metric in not_run)
        else overall([metric.outcome for metric in primaries]),
        confidence=evaluation.confidence,
        resamples=evaluation.resamples,
        seed=evaluation.seed,
        prompts=len(found.units()),
        storyboards=storyboards_among(found.units()),
        replicates=len({replicate for _, replicate in keys}),
        judged=tuple(judged),
        described=tuple(described),
        shifted=tuple(shifted),
        sets=tuple(sets),
        not_run=tuple(not_run),
        gates=gates,
        verdict=verdict_of(gates),
        looks=tuple(looks),
        decided=not looks or is_decided(looks[-1], primaries, gates, evaluation.sequential.indifferent),
        health=health_of(found, {metric.name for metric in not_run}),
    )


def _look(found: Scored, primaries: Sequence[JudgedMetric], evaluation: EvaluationConfig) -> Look:
    """Intervals of the primaries that hold for all of them at once."""
    confidence, inference = family_confidence(evaluation.confidence, len(primaries)), inference_of(evaluation)
    intervals = {}
    for facts in (metric.facts for metric in primaries):
        paired, seed = found.paired(facts.name), seed_of(evaluation, facts.name)
        intervals[facts.name] = inference.mean(paired.per_prompt(paired.delta), confidence, seed, binary=facts.binary)
    return Look(prompts=len(found.units()), intervals=intervals)
