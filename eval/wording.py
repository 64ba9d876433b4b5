"""Numbers and findings in words, for people who read one paragraph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.result import Comparison, Counted, DescribedMetric, JudgedMetric, MetricOutcome, Outcome, SetMetric
from eval.sides import DEFAULT, Sides
from eval.stats import Interval, fewest_prompts

HEADLINES: dict[Outcome, str] = {
    "better": "The candidate is better than {baseline}.",
    "worse": "The candidate is worse than {baseline}.",
    "mixed": "The candidate is better in one respect and worse in another.",
    "no_difference": "No difference between candidate and {plain} was shown.",
    "not_judged": "There is no verdict.",
}
SAID: dict[MetricOutcome, str] = {
    "better": "better on",
    "worse": "worse on",
    "no_difference": "no difference shown on",
    "too_few_prompts": "too few prompts for",
}
FEW = 2
"""Exploratory metrics that have a sentence of their own."""
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Chosen:
    """How the candidate was chosen, before it was judged."""

    among: int
    by: str
    """Title of a metric."""
    prompts: int

    def sentence(self, candidate: str) -> str:
        return (
            f"The candidate, {candidate}, was chosen among {self.among} by {self.by} on "
            f"{plural(self.prompts, 'other prompt')}, which have no part in what follows; selection/report.html shows "
            "all of them."
        )


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


def percent_exact(share: float) -> str:
    """`98.3%`, `95%`."""
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def percent_interval(found: Interval | None) -> str:
    return "\N{EN DASH}" if found is None else f"[{100 * found.low:.0f}, {100 * found.high:.0f}]"


def p_value(p: float | None) -> str:
    if p is None:
        return "\N{EN DASH}"
    return "<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"{p:.3f}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def units(counted: Counted) -> str:
    """`12 prompts`, `3 storyboards`, or `12 prompts and 3 storyboards`."""
    prompts = counted.prompts - counted.storyboards
    parts = [plural(prompts, "prompt")] if prompts or not counted.storyboards else []
    parts += [plural(counted.storyboards, "storyboard")] if counted.storyboards else []
    return " and ".join(parts)


def unit_name(counted: Counted) -> str:
    """What `units` counts, in the plural."""
    if not counted.storyboards:
        return "prompts"
    return "storyboards" if counted.storyboards == counted.prompts else "prompts and storyboards"


def headline(comparison: Comparison, sides: Sides = DEFAULT) -> str:
    return HEADLINES[comparison.outcome].format(baseline=sides.the_baseline, plain=sides.baseline)


def summary(comparison: Comparison, sides: Sides = DEFAULT) -> list[str]:
    """The verdict's reasons, one sentence each, most important first."""
    primaries = comparison.primaries
    if not primaries and not any(metric.primary for metric in comparison.not_run):
        opening = ["No metric was declared primary before the comparison, so everything below is exploratory."]
    elif missing := [metric.title for metric in comparison.not_run if metric.primary]:
        opening = [f"Declared primary and not run: {', '.join(missing)}. See Metrics for why, and how to get it."]
    elif comparison.outcome == "not_judged":
        fewest = plural(fewest_prompts(1 - comparison.confidence), "prompt")
        opening = [f"Inference at {percent(comparison.confidence)} needs {fewest} or more, scored on both sides."]
        opening += ["All frames of a storyboard together count as one prompt."] if comparison.storyboards else []
    else:
        opening = [_counts(primaries)]
    sentences = [*opening, *_judged(comparison)]
    if comparison.described:
        moved = ", ".join(
            f"{metric.facts.title} {plain(metric.mean, metric.facts.decimals)}" for metric in comparison.described
        )
        noise = "from" if sides.same_noise else "not from"
        sentences.append(f"Drift of the pictures, {noise} the same noise: {moved}. It is neither good nor bad.")
    made_elsewhere = [] if sides.same_noise else [sides.noise]
    return [*sentences, *_aside(comparison, sides), *made_elsewhere, *caveats(comparison, sides)]


def _judged(comparison: Comparison) -> list[str]:
    """A sentence each; many exploratory metrics share one."""
    primary = [metric for metric in comparison.judged if metric.primary]
    others = [metric for metric in comparison.judged if not metric.primary]
    if not primary or len(others) <= FEW:
        primary, others = list(comparison.judged), []
    sentences = [judged_sentence(metric, comparison.confidence) for metric in primary]
    return sentences + ([_exploratory(others)] if others else [])


def _exploratory(metrics: Sequence[JudgedMetric]) -> str:
    named: dict[MetricOutcome, list[str]] = {"better": [], "worse": [], "no_difference": [], "too_few_prompts": []}
    for metric in metrics:
        change = f" ({signed(metric.delta, metric.facts.decimals)})" if metric.outcome in ("better", "worse") else ""
        named[metric.outcome].append(f"{metric.facts.title}{change}")
    found = [f"{SAID[outcome]} {', '.join(titles)}" for outcome, titles in named.items() if titles]
    return f"Exploratory, not corrected for their number: {'; '.join(found)}."


def _aside(comparison: Comparison, sides: Sides) -> list[str]:
    """What was measured and cannot be judged."""
    found = []
    if comparison.shifted:
        shifts = (f"{m.facts.title} {signed(m.delta, m.facts.decimals)}" for m in comparison.shifted)
        found.append(f"Shifted, neither for good nor for bad: {', '.join(shifts)}.")
    if whole := [metric for metric in comparison.sets if metric.delta is not None]:
        numbers = ", ".join(_from_to(metric) for metric in whole)
        found.append(
            f"Of all pictures together, from {sides.baseline} to candidate: {numbers}. Such numbers have no interval."
        )
    return found


def _from_to(metric: SetMetric) -> str:
    assert metric.base is not None and metric.candidate is not None
    decimals = metric.facts.decimals
    return f"{metric.facts.title} {plain(metric.base, decimals)} to {plain(metric.candidate, decimals)}"


def caveats(comparison: Comparison, sides: Sides = DEFAULT) -> list[str]:
    found = []
    if comparison.health.identical_pairs:
        found.append(_identical(comparison, sides))
    if comparison.candidates > 1:
        corrected = "p and gates are" if comparison.gates else "p is"
        found.append(
            f"One of {comparison.candidates} candidates judged at once: {corrected} corrected for all of them."
        )
    if comparison.is_indicative:
        found.append(f"With {units(comparison)} this is indicative; decide on 50 or more.")
    elif few := [metric for metric in comparison.judged if metric.is_indicative]:
        named = ", ".join(f"{metric.facts.title} ({units(metric)})" for metric in few)
        found.append(f"On fewer than 50, so indicative: {named}.")
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


def _identical(comparison: Comparison, sides: Sides) -> str:
    same, total = comparison.health.identical_pairs, comparison.health.pictures["candidate"]
    if same == total:
        whole = f"Every picture of the candidate equals {sides.the_baseline}'s, pixel for pixel"
        return f"{whole}: the two models are the same here."
    return f"{plural(same, 'picture')} of {total:,} equal {sides.the_baseline}'s, pixel for pixel."


def judged_sentence(metric: JudgedMetric, confidence: float) -> str:
    """`CLIP-I rose by 0.081 (95% CI [..]); the candidate wins on 92% of prompts.`"""
    decimals, label = metric.facts.decimals, metric.facts.title
    bounds = f"{percent(confidence)} CI {interval(metric.delta_interval, decimals)}"
    if metric.outcome in ("better", "worse"):
        verb = "rose" if metric.delta > 0 else "fell"
        return (
            f"{label} {verb} by {plain(abs(metric.delta), decimals)} ({bounds}); the candidate wins "
            f"{percent(metric.win_rate)} of {unit_name(metric)}."
        )
    if metric.outcome == "too_few_prompts":
        return f"{label} changed by {signed(metric.delta, decimals)}, on {units(metric)}: too few to say more."
    text = f"{label}: no difference shown ({signed(metric.delta, decimals)}, {bounds})"
    if metric.detectable_delta is None:
        return text + "."
    return f"{text}; a change of {plain(metric.detectable_delta, decimals)} would probably have been seen."


def described_sentence(metric: DescribedMetric) -> str:
    decimals = metric.facts.decimals
    return f"{plain(metric.mean, decimals)} {interval(metric.mean_interval, decimals, sign=False)}"
