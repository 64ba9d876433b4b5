"""`evaluation.gates`: has the candidate shown what it has to show?"""

from __future__ import annotations

from collections.abc import Sequence

from eval.gate_config import RELATIVE, GateConfig
from eval.inference import Inference
from eval.pairing import Storyboards, group_means, paired_scores, storyboards_for, unit_of
from eval.result import GateOutcome, GateResult, MetricFacts, Verdict
from eval.stats import FloatArray
from eval.table import Row

# P: prompts


def judge_gate(
    gate: GateConfig,
    rows: Sequence[Row],
    facts: MetricFacts,
    frames: Storyboards,
    inference: Inference,
    confidence: float,
    seed: Sequence[int],
) -> GateResult:
    """Passed when the whole interval is on the right side of the bound and a test about the bound agrees; failed when
    both say the other side; else undecided. `frames`: prompt id -> its storyboard.

    Every gate has its own level. That the candidate must pass them all keeps the chance to promote one that fails in
    truth at the level of a single gate (Berger 1982, Technometrics 24: intersection-union tests).
    """
    confidence = gate.confidence or confidence
    found_P, bound = _values_P(gate, rows, facts, frames), bound_of(gate)
    if gate.require in RELATIVE:
        interval = inference.mean(found_P, confidence, seed, binary=facts.binary)
    else:
        interval = inference.level(found_P, confidence, seed, binary=facts.binary)
    p = inference.p(found_P - bound, seed, binary=facts.binary)
    outcome: GateOutcome = "undecided"
    if interval is not None and p is not None and p <= 1 - confidence:
        if interval.low >= bound:
            outcome = "failed" if gate.require == "at_most" else "passed"
        elif interval.high <= bound:
            outcome = "passed" if gate.require == "at_most" else "failed"
    return GateResult(
        gate=gate,
        title=facts.title,
        decimals=facts.decimals,
        confidence=confidence,
        observed=float(found_P.mean()),
        interval=interval,
        p=p,
        outcome=outcome,
        reason="too few prompts" if interval is None else "",
    )


def not_judged(gate: GateConfig, facts: MetricFacts, confidence: float, reason: str) -> GateResult:
    """Of a metric that gave nothing."""
    return GateResult(
        gate=gate,
        title=facts.title,
        decimals=facts.decimals,
        confidence=gate.confidence or confidence,
        observed=None,
        interval=None,
        p=None,
        outcome="undecided",
        reason=f"not run: {reason}",
    )


def verdict_of(gates: Sequence[GateResult]) -> Verdict | None:
    """Promote what passed everything, reject what failed anything."""
    outcomes = {gate.outcome for gate in gates}
    if not outcomes:
        return None
    if "failed" in outcomes:
        return "reject"
    return "promote" if outcomes == {"passed"} else "inconclusive"


def bound_of(gate: GateConfig) -> float:
    """What the interval has to lie beyond: of the improvement, or of the candidate's own mean."""
    if gate.limit is not None:
        return gate.limit
    return gate.margin if gate.require == "better" else -gate.margin


def _values_P(gate: GateConfig, rows: Sequence[Row], facts: MetricFacts, frames: Storyboards) -> FloatArray:
    """Improvements over the base, or the candidate's own numbers; of pairs, the pairs'."""
    if facts.scored == "pair":
        mine = [row for row in rows if row.is_scored]
        return group_means([unit_of(row.prompt_id, frames) for row in mine], [row.value for row in mine])
    paired = paired_scores(rows, facts.name, storyboards_for(facts.scored, frames))
    return paired.per_prompt(facts.direction * paired.delta if gate.require in RELATIVE else paired.candidate)
