"""Figures of several candidates: a metric over the steps of a training, and two metrics against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.plots import ACCENT, INCH_WIDE, INK, MUTED, NEUTRAL, OUTCOME_COLOUR, STYLE, svg
from eval.result import JudgedMetric

COLUMNS = 3


def trajectory(metrics: Sequence[Sequence[tuple[int, JudgedMetric]]]) -> str:
    """One panel a metric: its difference from the base, with its interval, over training steps."""
    panels = [sorted(points, key=lambda point: point[0]) for points in metrics if len(points) > 1]
    if not panels:
        return ""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(INCH_WIDE, 2.4 * rows), layout="constrained")
        for place, points in enumerate(panels, start=1):
            _over_steps(figure.add_subplot(rows, columns, place), points)
        return svg(figure, "trajectory", "Each metric's difference from the base over training steps")


def _over_steps(axes: Axes, points: Sequence[tuple[int, JudgedMetric]]) -> None:
    facts = points[0][1].facts
    steps, deltas = [step for step, _ in points], [metric.delta for _, metric in points]
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.plot(steps, deltas, color=NEUTRAL, linewidth=1.4)
    for step, metric in points:
        colour = OUTCOME_COLOUR[metric.outcome]
        if metric.delta_interval is not None:
            bounds = [metric.delta_interval.low, metric.delta_interval.high]
            axes.plot([step, step], bounds, color=colour, linewidth=2.2)
        axes.plot(step, metric.delta, "o", color=colour, markersize=5.5)
    axes.set_title(facts.title, loc="left", fontsize=9.5)
    better = "higher" if facts.direction > 0 else "lower"
    axes.set_ylabel(f"{better} is better", fontsize=8)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.margins(x=0.08, y=0.15)


def trade_off(points: Sequence[tuple[str, JudgedMetric, JudgedMetric]], unbeaten: Sequence[str]) -> str:
    """Improvement of one metric against that of another, each with its interval; the base is where the lines cross."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(INCH_WIDE * 0.72, 4.4), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.annotate("base", (0, 0), (5, 5), textcoords="offset points", color=MUTED)
        front = sorted((_gain(x), _gain(y)) for name, x, y in points if name in unbeaten)
        axes.plot([x for x, _ in front], [y for _, y in front], color=ACCENT, linewidth=1.2, linestyle=(0, (4, 3)))
        for name, x, y in points:
            colour = ACCENT if name in unbeaten else NEUTRAL
            axes.plot(*_bar(x, y), color=colour, linewidth=1.4, alpha=0.6)
            axes.plot(*reversed(_bar(y, x)), color=colour, linewidth=1.4, alpha=0.6)
            axes.plot(_gain(x), _gain(y), "o", color=colour, markersize=7)
            # a dollar sign would begin a formula
            shown = name.replace("$", r"\$")
            axes.annotate(shown, (_gain(x), _gain(y)), (8, 7), textcoords="offset points", color=INK)
        axes.margins(0.15)
        axes.set_xlabel(f"improvement of {points[0][1].facts.title}")
        axes.set_ylabel(f"improvement of {points[0][2].facts.title}")
        return svg(figure, "trade-off", "Improvement of two metrics against each other, one point a candidate")


def unbeaten(points: Sequence[tuple[str, JudgedMetric, JudgedMetric]]) -> list[str]:
    """Those that no other is at least as good as in both means and better in one (Pareto)."""
    gains = {name: (_gain(x), _gain(y)) for name, x, y in points}
    return [
        name
        for name, mine in gains.items()
        if not any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in gains.values())
    ]


def _gain(metric: JudgedMetric) -> float:
    return metric.facts.direction * metric.delta


def _bar(along: JudgedMetric, across: JudgedMetric) -> tuple[list[float], list[float]]:
    """From end to end of one metric's interval, at the other's mean."""
    found = along.delta_interval
    ends = [along.delta, along.delta] if found is None else [found.low, found.high]
    return [along.facts.direction * end for end in ends], [_gain(across)] * 2
