"""Several candidates in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval import gate_words
from eval.result import Comparison, JudgedMetric
from eval.wording import percent, percent_exact, plain, plural, signed, units


@dataclass(frozen=True)
class Contender:
    """One of several candidates."""

    slug: str
    """Names its folder."""
    name: str
    """For people; not our text."""
    step: int | None
    """Of the training that it is a state of, if it is that and nothing else."""


@dataclass(frozen=True)
class Choosing:
    """How the one is chosen that is judged further."""

    by: str
    """Metric."""
    further_prompts: int
    """On which it is judged."""


Found = Mapping[str, Comparison]
"""By slug, in the candidates' order."""


def judged_of(found: Comparison, name: str) -> JudgedMetric | None:
    return next((metric for metric in found.judged if metric.facts.name == name), None)


def headline(contenders: Sequence[Contender], found: Found, baseline: str, choice: str | None) -> str:
    """`choice`: the slug of the one that is judged further."""
    if choice is not None:
        return f"{_name(contenders, choice)} is chosen."
    better = sum(one.outcome == "better" for one in found.values())
    if all(one.outcome == "not_judged" for one in found.values()):
        return "There is no verdict."
    if not better:
        return f"None of {plural(len(found), 'candidate')} was shown to be better than {baseline}."
    verb = "is" if better == 1 else "are"
    return f"{better} of {plural(len(found), 'candidate')} {verb} better than {baseline}."


def summary(contenders: Sequence[Contender], found: Found, choosing: Choosing | None, choice: str | None) -> list[str]:
    """One sentence each, most important first."""
    sentences = [
        _verdicts(contenders, found),
        _choice(contenders, found, choosing, choice),
        *_ranked(contenders, found),
    ]
    sentences += [_correction(found), _indicative(found)]
    return [sentence for sentence in sentences if sentence]


def _verdicts(contenders: Sequence[Contender], found: Found) -> str:
    by_verdict = {
        words: [one.name for one in contenders if found[one.slug].verdict == verdict]
        for verdict, words in gate_words.VERDICTS.items()
    }
    return " ".join(f"{words}: {', '.join(names)}." for words, names in by_verdict.items() if names)


def _choice(contenders: Sequence[Contender], found: Found, choosing: Choosing | None, choice: str | None) -> str:
    if choosing is None or choice is None:
        return ""
    mine = found[choice]
    metric = judged_of(mine, choosing.by)
    assert metric is not None
    others = plural(choosing.further_prompts, "other prompt")
    return (
        f"{_name(contenders, choice)} has the best mean {metric.facts.title} of all on {units(mine)}. The best of "
        f"several looks better here than it is: what it is worth, its report tells, on {others} that had no part in "
        "the choice."
    )


def _ranked(contenders: Sequence[Contender], found: Found) -> list[str]:
    """By the leading metric, best first; nothing tests the candidates against each other."""
    leading = next((one.leading for one in found.values() if one.leading is not None), None)
    if leading is None:
        return []
    facts = leading.facts
    measured = [(one, metric) for one in contenders if (metric := judged_of(found[one.slug], facts.name))]
    ranked = sorted(measured, key=lambda pair: -facts.direction * pair[1].delta)
    listed = ", ".join(f"{one.name} {signed(metric.delta, facts.decimals)}" for one, metric in ranked)
    sentences = [f"By {facts.title}, the mean difference from best to worst: {listed}."]
    steps = [(one.step, metric) for one, metric in measured if one.step is not None]
    if len(steps) > 2:
        best, last = max(steps, key=lambda pair: facts.direction * pair[1].delta), max(steps, key=lambda pair: pair[0])
        if best[0] != last[0]:
            less = plain(abs(last[1].delta - best[1].delta), facts.decimals)
            sentences.append(f"It was best at step {best[0]:,}; by step {last[0]:,} it had lost {less} of that.")
    return sentences


def _correction(found: Found) -> str:
    primaries = sum(len(one.primaries) for one in found.values())
    first = next(iter(found.values()))
    if len(found) < 2:
        return ""
    sentence = f"p is Holm-corrected over {plural(primaries, 'test')}: all candidates and primary metrics together"
    gates = f"; each gate is asked at {percent_exact(first.gates[0].confidence)}" if first.gates else ""
    return f"{sentence}{gates}. Intervals are each candidate's own, at {percent(first.confidence)}."


def _indicative(found: Found) -> str:
    fewest = min(found.values(), key=lambda one: one.prompts)
    return f"With {units(fewest)} this is indicative; decide on 50 or more." if fewest.is_indicative else ""


def _name(contenders: Sequence[Contender], slug: str) -> str:
    return next(one.name for one in contenders if one.slug == slug)
