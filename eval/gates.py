"""`evaluation.gates`: has the candidate shown what it has to show?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.config import EvaluationConfig
from eval.findings import seed_of
from eval.gate_config import RELATIVE, GateConfig
from eval.inference import inference_of
from eval.pairing import group_means, unit_of
from eval.result import GateOutcome, GateResult, Verdict
from eval.scored import Scored
from eval.stats import FloatArray
from eval.verdicts import family_confidence

# P: prompts


def judge_gate(gate: GateConfig, found: Scored, evaluation: EvaluationConfig, candidates: int = 1) -> GateResult:
    """Passed when the whole interval is on the right side of the bound and a test about the bound agrees; failed when
    both say the other side; else undecided.

    Every gate has its own level. That the candidate must pass them all keeps the chance to promote one that fails in
    truth at the level of a single gate (Berger 1982, Technometrics 24: intersection-union tests). Of several
    `candidates`, each has its share of that chance.
    """
    facts, confidence = found.facts[gate.metric], _confidence(gate, evaluation, candidates)
    inference, seed = inference_of(evaluation), seed_of(evaluation, gate.metric)
    found_P, bound = _values_P(gate, found), gate.bound
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
        **_asked(gate, found, confidence),
        observed=float(found_P.mean()),
        interval=interval,
        p=p,
        outcome=outcome,
        reason="too few prompts" if interval is None else "",
    )


def not_judged(
    gate: GateConfig, found: Scored, evaluation: EvaluationConfig, reason: str, candidates: int = 1
) -> GateResult:
    """Of a metric that gave nothing."""
    nothing = {"observed": None, "interval": None, "p": None, "outcome": "undecided"}
    confidence = _confidence(gate, evaluation, candidates)
    return GateResult(**_asked(gate, found, confidence), **nothing, reason=f"not run: {reason}")


def _confidence(gate: GateConfig, evaluation: EvaluationConfig, candidates: int) -> float:
    return family_confidence(gate.confidence or evaluation.confidence, candidates)


def _asked(gate: GateConfig, found: Scored, confidence: float) -> dict[str, Any]:
    facts = found.facts[gate.metric]
    return {"gate": gate, "title": facts.title, "decimals": facts.decimals, "confidence": confidence}


def verdict_of(gates: Sequence[GateResult]) -> Verdict | None:
    """Promote what passed everything, reject what failed anything."""
    outcomes = {gate.outcome for gate in gates}
    if not outcomes:
        return None
    if "failed" in outcomes:
        return "reject"
    return "promote" if outcomes == {"passed"} else "inconclusive"


def _values_P(gate: GateConfig, found: Scored) -> FloatArray:
    """Improvements over the base, or the candidate's own numbers; of pairs, the pairs'."""
    facts = found.facts[gate.metric]
    if facts.scored == "pair":
        mine = [row for row in found.rows_of(gate.metric) if row.is_scored]
        units = [unit_of(row.prompt_id, found.units_of(gate.metric)) for row in mine]
        return group_means(units, [row.value for row in mine])
    paired = found.paired(gate.metric)
    return paired.per_prompt(facts.direction * paired.delta if gate.require in RELATIVE else paired.candidate)
