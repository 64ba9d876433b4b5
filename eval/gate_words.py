"""Gates, verdicts and looks in words."""

from __future__ import annotations

from collections.abc import Sequence

from eval.gate_config import Requirement
from eval.result import Comparison, GateOutcome, GateResult, Verdict
from eval.sides import DEFAULT, Sides
from eval.wording import plain, plural

VERDICTS: dict[Verdict, str] = {"promote": "Promote", "reject": "Reject", "inconclusive": "Inconclusive"}
TAGS: dict[GateOutcome, str] = {"passed": "better", "failed": "worse", "undecided": "no_difference"}
VERDICT_TAGS: dict[Verdict, str] = {"promote": "better", "reject": "worse", "inconclusive": "no_difference"}
"""How pages colour them."""
ASKED: dict[Requirement, str] = {
    "better": "better than {baseline}",
    "not_worse": "not worse than {baseline}",
    "at_most": "at most",
    "at_least": "at least",
}


def gate_words(result: GateResult, sides: Sides = DEFAULT) -> str:
    """`CLIP score not worse than the base by 0.30`."""
    gate = result.gate
    if gate.limit is not None:
        return f"{result.title} {ASKED[gate.require]} {plain(gate.limit, result.decimals)}"
    by = f" by {plain(gate.margin, result.decimals)}" if gate.margin else ""
    return f"{result.title} {ASKED[gate.require].format(baseline=sides.the_baseline)}{by}"


def verdict_sentence(comparison: Comparison, sides: Sides = DEFAULT) -> str:
    """Empty where there are no gates."""
    gates = comparison.gates
    match comparison.verdict:
        case "promote":
            return f"Promote: the candidate passes {'the gate' if len(gates) == 1 else f'all {len(gates)} gates'}."
        case "reject":
            return f"Reject: the candidate fails {_listed(gates, 'failed', sides)}."
        case "inconclusive":
            return f"Inconclusive: not decided is {_listed(gates, 'undecided', sides)}. More prompts would tell."
        case None:
            return ""


def stop_sentence(comparison: Comparison) -> str:
    """Empty for a fixed number of prompts."""
    if not comparison.looks:
        return ""
    looked = f"After {plural(comparison.prompts, 'prompt')} and {plural(len(comparison.looks), 'look')}"
    if comparison.decided:
        return f"{looked}, everything was decided, so no more were drawn. Intervals and p hold for any number of looks."
    return f"{looked}, the prompts are used up. Intervals and p hold for any number of looks."


def _listed(gates: Sequence[GateResult], outcome: GateOutcome, sides: Sides) -> str:
    found = [gate_words(gate, sides) for gate in gates if gate.outcome == outcome]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
