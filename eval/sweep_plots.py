"""A figure of a sweep: every training's difference from the base, and what its settings come to over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.matrix_plots import COLUMNS
from eval.plots import ACCENT, INCH_WIDE, INK, MUTED, NEUTRAL, OUTCOME_COLOUR, STYLE, svg
from eval.result import MetricFacts
from eval.sweep import SweptGroup

MOST_PANELS = 6
MOST_GROUPS = 40
"""In one figure; the table has all."""
_LONGEST = 28


def over_seeds(groups: Sequence[SweptGroup], facts: Sequence[MetricFacts]) -> str:
    """One panel a metric, one line a group: a point each seed, the mean as a bar, and the interval of the settings."""
    shown = [one for one in facts if any(group.metric(one.name) for group in groups)][:MOST_PANELS]
    if not shown or not groups:
        return ""
    lines = list(groups[:MOST_GROUPS])
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(INCH_WIDE, rows * (1.0 + 0.3 * len(lines))), layout="constrained")
        first: Axes | None = None
        for place, metric in enumerate(shown):
            axes = figure.add_subplot(rows, columns, place + 1, sharey=first)
            first = first or axes
            _panel(axes, lines, metric)
            axes.tick_params(labelleft=place % columns == 0)
        return svg(figure, "over-seeds", "Each training's difference from the base, by settings")


def _panel(axes: Axes, groups: Sequence[SweptGroup], facts: MetricFacts) -> None:
    axes.axvline(0, color=MUTED, linewidth=1)
    for place, group in enumerate(groups):
        metric = group.metric(facts.name)
        if metric is None:
            continue
        colour = OUTCOME_COLOUR[metric.outcome] if metric.outcome is not None else NEUTRAL
        if metric.found.interval is not None:
            ends = [metric.found.interval.low, metric.found.interval.high]
            axes.plot(ends, [place, place], color=colour, linewidth=2.2)
        axes.plot([metric.found.mean] * 2, [place - 0.28, place + 0.28], color=INK, linewidth=1.6)
        seeds = list(metric.by_seed.values())
        axes.plot(seeds, [place] * len(seeds), "o", color=ACCENT, markersize=4.5, alpha=0.8)
    axes.set_yticks(range(len(groups)), [_short(group.group.name) for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_title(facts.title, loc="left", fontsize=9.5)
    axes.set_xlabel(f"{'higher' if facts.direction > 0 else 'lower'} is better", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.margins(x=0.08)


def _short(name: str) -> str:
    """A dollar sign would begin a formula."""
    text = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    return text.replace("$", r"\$")
