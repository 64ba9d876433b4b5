"""The comparison in a few lines of Markdown, for Prefect artifacts and pull requests."""

from __future__ import annotations

import re

from eval import wording
from eval.result import Comparison, DescribedMetric, JudgedMetric, NotRun, SetMetric, ShiftedMetric

HEADER = """| metric | base | candidate | difference | d_z | wins | p |
|---|---:|---:|---:|---:|---:|---:|"""


def summary_markdown(title: str, found: Comparison) -> str:
    lines = [f"# {_escaped(title)}", "", f"**{wording.headline(found)}**", ""]
    lines += [f"- {_escaped(sentence)}" for sentence in wording.summary(found)]
    lines += ["", HEADER]
    lines += [_judged(metric) for metric in found.judged]
    lines += [_described(metric) for metric in found.described]
    lines += [_shifted(metric) for metric in found.shifted]
    lines += [_of_sets(metric) for metric in found.sets]
    lines += [_not_run(metric) for metric in found.not_run]
    lines += [
        "",
        f"Differences with {wording.percent(found.confidence)} bootstrap intervals over "
        f"{wording.plural(found.prompts, 'prompt')}; p by sign flips, Holm-corrected for primary metrics (bold).",
    ]
    for note, titles in found.notes.items():
        lines += ["", f"Weights of {_escaped(', '.join(titles))}: {_escaped(note)}"]
    return "\n".join(lines) + "\n"


def _judged(metric: JudgedMetric) -> str:
    decimals = metric.facts.decimals
    name = _escaped(metric.facts.title)
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


def _described(metric: DescribedMetric) -> str:
    return f"| {_escaped(metric.facts.title)} (drift) | | | {wording.described_sentence(metric)} | | | |"


def _shifted(metric: ShiftedMetric) -> str:
    decimals = metric.facts.decimals
    means = " | ".join(wording.plain(mean, decimals) for mean in (metric.base_mean, metric.candidate_mean))
    change = f"{wording.signed(metric.delta, decimals)} {wording.interval(metric.delta_interval, decimals)}"
    return f"| {_escaped(metric.facts.title)} | {means} | {change} | | | |"


def _of_sets(metric: SetMetric) -> str:
    decimals = metric.facts.decimals
    values = " | ".join(
        "" if value is None else wording.plain(value, decimals) for value in (metric.base, metric.candidate)
    )
    found = _escaped(metric.reason) if metric.delta is None else wording.signed(metric.delta, decimals)
    return f"| {_escaped(metric.facts.title)} (of the set) | {values} | {found} | | | |"


def _not_run(metric: NotRun) -> str:
    return f"| {_escaped(metric.title)} | | | not run: {_escaped(metric.reason)} | | | |"


def _escaped(text: str) -> str:
    """Nothing in `text` is markup: neither Markdown nor HTML, nor a line of its own."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#>])", r"\\\1", flat)
