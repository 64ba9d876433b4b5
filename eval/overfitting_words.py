"""What the report says about over-fitting, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from eval.agreement import Correlation, Disagreement, Teachers
from eval.nearest import KIND, Nearness
from eval.result import Comparison
from eval.sides import BASE, Sides
from eval.wording import interval, percent, plain, plural

if TYPE_CHECKING:
    from eval.overfitting import Change

ADD = {
    "Nearest training pictures": (
        (KIND,),
        "{metric: nearest_instance, model: MODEL}, the MODEL that clip_i or dino has",
    ),
    "Diversity": (
        ("diversity",),
        "{metric: diversity, trunk: TRUNK}, the TRUNK that lpips has, and set evaluation.replicates to 2 or more",
    ),
    "Drift": (("lpips", "ssim", "background_ssim"), "{metric: ssim}, or {metric: lpips, trunk: TRUNK}"),
    "Saturation and contrast": (("saturation", "contrast"), "{metric: saturation} and {metric: contrast}"),
}
"""What -> the metrics of which one says it, and what to add to evaluation.metrics where none is there."""


def missing(found: Comparison) -> list[str]:
    """A line for each thing that no metric says."""
    there = {metric.facts.metric for metric in found.measured}
    lines = []
    for what, (kinds, line) in ADD.items():
        if not there.isdisjoint(kinds):
            continue
        asked = [f"{metric.title} was not run: {metric.reason}" for metric in found.not_run if metric.metric in kinds]
        lines.append(f"{what}: {'; '.join(asked) or f'add {line}'}.")
    if len(found.judged) < 2:
        lines.append("Agreement of judges: add a second metric that judges pictures, such as {metric: clip_score}.")
    return lines


def too_near(near: Nearness, sides: Sides) -> str:
    assert near.usual_share is not None
    two = "any two of those are to each other"
    nearer = f"{two}, and than any of the base's" if sides.baseline == BASE else two
    return (
        f"Copies? {near.copies:,} of the candidate's {plural(near.candidate.scored, 'picture')} are nearer to an "
        f"instance picture than {nearer} ({near.facts.title}); of more pictures like those at most "
        f"{percent(near.usual_share)} would be."
    )


def collapse(change: Change, confidence: float) -> str:
    assert change.base is not None and change.candidate is not None
    facts, places = change.facts, change.facts.decimals
    bounds = f"{percent(confidence)} CI of the change {interval(change.interval, places)}"
    return (
        f"A prompt's pictures became more alike: {facts.title} fell from {plain(change.base, places)} to "
        f"{plain(change.candidate, places)} ({bounds}). Where one subject was learned, some of that is meant."
    )


def hacked(taught: Teachers, titles: Mapping[str, str]) -> str:
    said = f"Possible reward hacking: {_titles(taught.risen, titles)} rose, taught by what taught the candidate; "
    if taught.fallen:
        return f"{said}{_titles(taught.fallen, titles)} fell, and no judge that was taught otherwise rose."
    return f"{said}of the judges that were taught otherwise none did ({_titles(taught.independent, titles)})."


def yardstick(near: Nearness, sides: Sides) -> str:
    """How near is near, and how many are nearer."""
    if near.usual_share is None:
        return "There is one instance picture alone, so nothing says how near is too near: look at the pictures."
    places = near.facts.decimals
    low, high = (plain(near.instances[place], places) for place in (0, -1))
    there = f"From each of the {len(near.instances):,} instance pictures to the nearest other one it is {low} to {high}"
    if near.instances[-1] >= 1 - near.facts.tie:
        return f"{there}: two of them are the same, and nothing is nearer than that. Take out what is there twice."
    counts = (
        f"{there}. {near.candidate.beyond:,} of the candidate's {plural(near.candidate.scored, 'picture')} are nearer "
        f"to one than {high}, and {near.base.beyond:,} of {near.base.scored:,} of {sides.the_baseline}'s; of more "
        f"pictures like the instance pictures {percent(near.usual_share)} would be."
    )
    if sides.baseline != BASE:
        return counts
    return (
        f"{counts} The base never saw them: {near.copies:,} of the candidate's are nearer than any of the base's, too."
    )


def reading(change: Change) -> str:
    """What a change means, as far as its interval says anything."""
    places, kind = change.facts.decimals, change.facts.metric
    if change.lowest is not None and change.highest is not None:
        return f"drift; single pairs from {plain(change.lowest, places)} to {plain(change.highest, places)}"
    if change.interval is None:
        return "too few prompts to say more"
    if not change.sign:
        return "no shift shown"
    risen = change.sign > 0
    return READINGS.get(kind, {}).get(risen, "rose" if risen else "fell")


READINGS: dict[str, dict[bool, str]] = {
    "diversity": {
        True: "a prompt's pictures differ more; noise and artefacts do that, too",
        False: "a prompt's pictures became more alike",
    },
    KIND: {True: "nearer to the instance pictures", False: "further from the instance pictures"},
    "saturation": {True: "more colourful", False: "less colourful"},
    "contrast": {True: "more contrast", False: "less contrast"},
}
"""Kind of metric -> whether it rose -> what that means."""


def opposed(disagreements: Sequence[Disagreement], taught: Teachers, titles: Mapping[str, str]) -> str:
    """Every metric that found the candidate better against every one that found it worse."""
    if not disagreements:
        return "No two judges are opposed with both intervals off zero."
    better, worse = (
        list(dict.fromkeys(names)) for names in zip(*((d.better, d.worse) for d in disagreements), strict=True)
    )
    sharing = [name for name in better if name in taught.sharing]
    suspects = f" {_titles(sharing, titles)} learned from what the candidate learned from." if sharing else ""
    return (
        f"Opposed, all with their intervals off zero: the candidate is better by {_titles(better, titles)}, and worse "
        f"by {_titles(worse, titles)}.{suspects}"
    )


def without_rho(correlations: Sequence[Correlation], titles: Mapping[str, str]) -> str:
    """Which metrics have no correlation with any other; empty where all have one."""
    having = {name for one in correlations if one.rho is not None for name in (one.one, one.other)}
    lacking = [name for name in dict.fromkeys(_names(correlations)) if name not in having]
    return f"No correlation of {_titles(lacking, titles)}: equal for all prompts, or too few." if lacking else ""


def _names(correlations: Iterable[Correlation]) -> list[str]:
    return [name for one in correlations for name in (one.one, one.other)]


def _titles(names: Iterable[str], titles: Mapping[str, str]) -> str:
    *others, last = (titles[name] for name in names)
    return f"{', '.join(others)} and {last}" if others else last
