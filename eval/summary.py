"""The comparison in a few lines of Markdown, for Prefect artifacts and pull requests."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eval import gate_words, wording
from eval.result import Comparison, DescribedMetric, GateResult, JudgedMetric, NotRun, SetMetric, ShiftedMetric
from eval.sides import DEFAULT, Sides

HEADER = """| metric | {baseline} | candidate | difference | d_z | wins | p |
|---|---:|---:|---:|---:|---:|---:|"""


def summary(found: Comparison, sides: Sides = DEFAULT) -> list[str]:
    """The verdict and its reasons, one sentence each, most important first."""
    opening = [gate_words.verdict_sentence(found, sides), gate_words.stop_sentence(found)]
    return [sentence for sentence in opening if sentence] + wording.summary(found, sides)


def summary_markdown(title: str, found: Comparison, sides: Sides = DEFAULT, warnings: Sequence[str] = ()) -> str:
    lines = [f"# {escaped(title)}", "", f"**{escaped(wording.headline(found, sides))}**", ""]
    lines += [f"- {escaped(sentence)}" for sentence in (*summary(found, sides), *warnings)]
    lines += ["", HEADER.format(baseline=escaped(sides.baseline))]
    lines += [_judged(metric) for metric in found.judged]
    lines += [_described(metric) for metric in found.described]
    lines += [_shifted(metric) for metric in found.shifted]
    lines += [_of_sets(metric) for metric in found.sets]
    lines += [_not_run(metric) for metric in found.not_run]
    if found.gates:
        lines += ["", "| gate | found | |", "|---|---:|---|", *(_gate(gate, sides) for gate in found.gates)]
    how = "confidence sequences" if found.looks else "bootstrap intervals"
    p = "of the same" if found.looks else "by sign flips and a skewness-corrected t"
    lines += [
        "",
        f"Differences with {wording.percent(found.confidence)} {how} over {wording.units(found)}; "
        f"p {p}, Holm-corrected for primary metrics (bold).",
    ]
    for note, titles in found.notes.items():
        lines += ["", f"Weights of {escaped(', '.join(titles))}: {escaped(note)}"]
    lines += [
        f"\n{escaped(one.facts.title)}: {escaped(one.facts.remark)}." for one in found.measured if one.facts.remark
    ]
    return "\n".join(lines) + "\n"


def _judged(metric: JudgedMetric) -> str:
    decimals = metric.facts.decimals
    name = escaped(metric.facts.title)
    cells = [
        f"**{name}**" if metric.primary else name,
        wording.plain(metric.base_mean, decimals),
        wording.plain(metric.candidate_mean, decimals),
        f"{wording.signed(metric.delta, decimals)} {wording.interval(metric.delta_interval, decimals)}",
        "" if metric.d_z is None else wording.signed(metric.d_z, 2),
        wording.percent(metric.win_rate),
        wording.p_value(metric.decisive_p).replace("<", "&lt;"),
    ]
    return f"| {' | '.join(cells)} |"


def _gate(result: GateResult, sides: Sides) -> str:
    sign = result.gate.limit is None
    bounds = wording.interval(result.interval, result.decimals, sign=sign)
    show = wording.signed if sign else wording.plain
    found = result.reason if result.observed is None else f"{show(result.observed, result.decimals)} {bounds}"
    return f"| {escaped(gate_words.gate_words(result, sides))} | {escaped(found)} | {result.outcome} |"


def _described(metric: DescribedMetric) -> str:
    return f"| {escaped(metric.facts.title)} (drift) | | | {wording.described_sentence(metric)} | | | |"


def _shifted(metric: ShiftedMetric) -> str:
    decimals = metric.facts.decimals
    means = " | ".join(wording.plain(mean, decimals) for mean in (metric.base_mean, metric.candidate_mean))
    change = f"{wording.signed(metric.delta, decimals)} {wording.interval(metric.delta_interval, decimals)}"
    return f"| {escaped(metric.facts.title)} | {means} | {change} | | | |"


def _of_sets(metric: SetMetric) -> str:
    decimals = metric.facts.decimals
    values = " | ".join(
        "" if value is None else wording.plain(value, decimals) for value in (metric.base, metric.candidate)
    )
    found = escaped(metric.reason) if metric.delta is None else wording.signed(metric.delta, decimals)
    return f"| {escaped(metric.facts.title)} (of the set) | {values} | {found} | | | |"


def _not_run(metric: NotRun) -> str:
    return f"| {escaped(metric.title)} | | | not run: {escaped(metric.reason)} | | | |"


def escaped(text: str) -> str:
    """Nothing in `text` is markup: neither Markdown nor HTML, nor a line of its own."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#>])", r"\\\1", flat)
