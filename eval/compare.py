"""The comparison stage: scores of base and candidate -> what can be said about the difference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.findings import describe, judge, of_sets, seed_of, shift
from eval.gates import judge_gate, not_judged, verdict_of
from eval.inference import Inference, inference_of
from eval.pairing import paired_scores, storyboards_among, storyboards_for
from eval.result import (
    COMPARISON,
    Comparison,
    DescribedMetric,
    GateResult,
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
    inference = inference_of(evaluation)
    judged: list[JudgedMetric] = []
    described: list[DescribedMetric] = []
    shifted: list[ShiftedMetric] = []
    sets: list[SetMetric] = []
    not_run: list[NotRun] = []
    for metric in evaluation.metrics:
        facts, rows = found.facts[metric.id], [row for row in found.rows if row.metric_id == metric.id]
        boards = storyboards_for(facts.scored, found.storyboards)
        reason = found.not_run.get(metric.id, "") or nothing_scored(facts, rows)
        if reason:
            titles = {"title": facts.title, "licence": facts.licence}
            not_run.append(NotRun(name=metric.id, primary=metric.primary, reason=reason, **titles))
        elif facts.scored == "set":
            sets.append(of_sets(rows, facts))
        elif facts.scored == "pair":
            described.append(describe(rows, facts, boards, evaluation))
        elif facts.direction == 0:
            shifted.append(shift(rows, facts, boards, evaluation))
        else:
            judged.append(judge(rows, facts, boards, metric.primary, evaluation))
    judged = with_outcomes(judged, 1 - evaluation.confidence, inference)
    primaries = [metric for metric in judged if metric.primary]
    gates = _gates(found, {metric.name: metric.reason for metric in not_run}, inference, evaluation)
    if evaluation.stop == "sequential":
        looks = (*looks, _look(found, primaries, inference, evaluation))
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


def _gates(
    found: Scored, not_run: Mapping[str, str], inference: Inference, evaluation: EvaluationConfig
) -> tuple[GateResult, ...]:
    results = []
    for gate in evaluation.gates:
        facts, confidence = found.facts[gate.metric], evaluation.confidence
        if gate.metric in not_run:
            results.append(not_judged(gate, facts, confidence, not_run[gate.metric]))
        else:
            rows = [row for row in found.rows if row.metric_id == gate.metric]
            results.append(
                judge_gate(
                    gate, rows, facts, found.storyboards, inference, confidence, seed_of(evaluation, gate.metric)
                )
            )
    return tuple(results)


def _look(found: Scored, primaries: Sequence[JudgedMetric], inference: Inference, evaluation: EvaluationConfig) -> Look:
    """Intervals of the primaries that hold for all of them at once."""
    confidence = family_confidence(evaluation.confidence, len(primaries))
    intervals = {}
    for metric in primaries:
        name = metric.facts.name
        paired = paired_scores(
            [row for row in found.rows if row.metric_id == name],
            name,
            storyboards_for(metric.facts.scored, found.storyboards),
        )
        delta_P = paired.per_prompt(paired.delta)
        intervals[name] = inference.mean(delta_P, confidence, seed_of(evaluation, name), binary=metric.facts.binary)
    return Look(prompts=len(found.units()), intervals=intervals)
