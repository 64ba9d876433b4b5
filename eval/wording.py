"""Numbers and findings in words, for people who read one paragraph."""

from __future__ import annotations

from collections.abc import Sequence

from eval.result import Comparison, DescribedMetric, JudgedMetric, Outcome, SetMetric
from eval.stats import Interval

HEADLINES: dict[Outcome, str] = {
    "better": "The candidate is better than the base.",
    "worse": "The candidate is worse than the base.",
    "mixed": "The candidate is better in one respect and worse in another.",
    "no_difference": "No difference between candidate and base was shown.",
    "not_judged": "There is no verdict.",
}
MINUS = "\N{MINUS SIGN}"


def signed(value: float, decimals: int) -> str:
    """`+0.12`, with a true minus sign; a value that rounds to zero has no sign."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def plain(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def interval(found: Interval | None, decimals: int, sign: bool = True) -> str:
    """`[+0.10, +0.14]`, or a dash where there is none."""
    if found is None:
        return "\N{EN DASH}"
    show = signed if sign else plain
    return f"[{show(found.low, decimals)}, {show(found.high, decimals)}]"


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def percent_interval(found: Interval | None) -> str:
    return "\N{EN DASH}" if found is None else f"[{100 * found.low:.0f}, {100 * found.high:.0f}]"


def p_value(p: float | None) -> str:
    if p is None:
        return "\N{EN DASH}"
    return "<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"{p:.3f}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def headline(comparison: Comparison) -> str:
    return HEADLINES[comparison.outcome]


def summary(comparison: Comparison) -> list[str]:
    """The verdict's reasons, one sentence each, most important first."""
    primaries = comparison.primaries
    if not primaries and not any(metric.primary for metric in comparison.not_run):
        opening = ["No metric was declared primary before the comparison, so everything below is exploratory."]
    elif missing := [metric.title for metric in comparison.not_run if metric.primary]:
        opening = [f"Declared primary and not run: {', '.join(missing)}. See Metrics for why, and how to get it."]
    elif comparison.outcome == "not_judged":
        opening = ["Inference needs at least two prompts that are scored on both sides."]
    else:
        opening = [_counts(primaries)]
    sentences = [*opening, *(judged_sentence(metric, comparison.confidence) for metric in comparison.judged)]
    if comparison.described:
        moved = ", ".join(
            f"{metric.facts.title} {plain(metric.mean, metric.facts.decimals)}" for metric in comparison.described
        )
        sentences.append(f"Drift of the pictures, from the same noise: {moved}. It is neither good nor bad.")
    return [*sentences, *_aside(comparison), *caveats(comparison)]


def _aside(comparison: Comparison) -> list[str]:
    """What was measured and cannot be judged."""
    found = []
    if comparison.shifted:
        shifts = (f"{m.facts.title} {signed(m.delta, m.facts.decimals)}" for m in comparison.shifted)
        found.append(f"Shifted, neither for good nor for bad: {', '.join(shifts)}.")
    if whole := [metric for metric in comparison.sets if metric.delta is not None]:
        numbers = ", ".join(_from_to(metric) for metric in whole)
        found.append(f"Of all pictures together, from base to candidate: {numbers}. Such numbers have no interval.")
    return found


def _from_to(metric: SetMetric) -> str:
    assert metric.base is not None and metric.candidate is not None
    decimals = metric.facts.decimals
    return f"{metric.facts.title} {plain(metric.base, decimals)} to {plain(metric.candidate, decimals)}"


def caveats(comparison: Comparison) -> list[str]:
    found = []
    if comparison.health.identical_pairs:
        found.append(_identical(comparison))
    if comparison.is_indicative:
        found.append(f"With {plural(comparison.prompts, 'prompt')} this is indicative; decide on 50 or more.")
    if others := [metric.title for metric in comparison.not_run if not metric.primary]:
        found.append(f"Not run: {', '.join(others)}.")
    if comparison.health.unscored:
        found.append(f"{plural(len(comparison.health.unscored), 'score')} could not be had; see Health.")
    return found


def _counts(primaries: Sequence[JudgedMetric]) -> str:
    total = len(primaries)
    better = sum(metric.outcome == "better" for metric in primaries)
    worse = sum(metric.outcome == "worse" for metric in primaries)
    parts = [f"better on {better}"] if better or not worse else []
    parts += [f"worse on {worse}"] if worse else []
    return f"It is {' and '.join(parts)} of {plural(total, 'primary metric')}."


def _identical(comparison: Comparison) -> str:
    same, total = comparison.health.identical_pairs, comparison.health.pictures["candidate"]
    if same == total:
        return "Every picture of the candidate equals the base's, pixel for pixel: the two models are the same here."
    return f"{plural(same, 'picture')} of {total:,} equal the base's, pixel for pixel."


def judged_sentence(metric: JudgedMetric, confidence: float) -> str:
    """`CLIP-I rose by 0.081 (95% CI [..]); the candidate wins on 92% of prompts.`"""
    decimals, label = metric.facts.decimals, metric.facts.title
    bounds = f"{percent(confidence)} CI {interval(metric.delta_interval, decimals)}"
    if metric.outcome in ("better", "worse"):
        verb = "rose" if metric.delta > 0 else "fell"
        return (
            f"{label} {verb} by {plain(abs(metric.delta), decimals)} ({bounds}); the candidate wins "
            f"{percent(metric.win_rate)} of prompts."
        )
    if metric.outcome == "too_few_prompts":
        return f"{label} changed by {signed(metric.delta, decimals)}, on too few prompts to say more."
    text = f"{label}: no difference shown ({signed(metric.delta, decimals)}, {bounds})"
    if metric.detectable_delta is None:
        return text + "."
    return f"{text}; a change of {plain(metric.detectable_delta, decimals)} would probably have been seen."


def described_sentence(metric: DescribedMetric) -> str:
    decimals = metric.facts.decimals
    return f"{plain(metric.mean, decimals)} {interval(metric.mean_interval, decimals, sign=False)}"
