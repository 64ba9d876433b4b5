"""The report's figures as inline SVG, in the page's own colours and fonts.

Matplotlib draws with stand-in colours, which become CSS variables in the markup; so one figure suits light and dark.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.result import Comparison, GateResult, JudgedMetric
from eval.stats import FloatArray
from eval.wording import signed

INK, MUTED, RULE = "#010101", "#020202", "#030303"
BETTER, WORSE, NEUTRAL, ACCENT = "#040404", "#050505", "#060606", "#070707"
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    BETTER: "better",
    WORSE: "worse",
    NEUTRAL: "neutral",
    ACCENT: "accent",
}
OUTCOME_COLOUR = {"better": BETTER, "worse": WORSE, "no_difference": NEUTRAL, "too_few_prompts": NEUTRAL}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's font
    "font.size": 9.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.solid_capstyle": "round",
}
INCH_WIDE = 11.0  # 1 pt of text is then about 1.3 px in the page
UNWANTED = (
    r"<metadata>.*?</metadata>",
    r"<style.*?</style>",  # would apply to the whole page
    r" font-family: [^;]*;",  # the page's own font is better
    r' (?:id|xmlns:xlink|xmlns)="(?![mp][0-9a-f]{9})[^"]*"',  # all but markers and clip paths, which are referred to
)


def forest(metrics: Sequence[JudgedMetric], gates: Sequence[GateResult] = ()) -> str:
    """Improvement of each metric in its own standard deviations, with its interval; right of zero is better. A bar
    stands at the bound of a gate with a margin."""
    shown = [metric for metric in metrics if metric.d_z is not None]
    if not shown:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(INCH_WIDE, 0.85 + 0.42 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=MUTED, linewidth=1)
        for height, metric in enumerate(reversed(shown)):
            colour = OUTCOME_COLOUR[metric.outcome]
            assert metric.d_z is not None
            low, high = metric.d_z_interval or (metric.d_z, metric.d_z)
            axes.plot([low, high], [height, height], color=colour, linewidth=2.4)
            axes.plot(metric.d_z, height, "o", color=colour, markersize=7 if metric.primary else 5)
            axes.annotate(
                signed(metric.d_z, 2), (high, height), (7, 0), textcoords="offset points", va="center", color=INK
            )
        axes.set_yticks(range(len(shown)), [_label(metric) for metric in reversed(shown)])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.6, len(shown) - 0.1)
        axes.margins(x=0.12)
        axes.set_xlabel("effect in standard deviations of the difference")
        _draw_bounds(axes, shown, gates)
        for side, text in ((0.0, "\N{LEFTWARDS ARROW} worse"), (1.0, "better \N{RIGHTWARDS ARROW}")):
            align = "left" if side == 0 else "right"
            axes.annotate(text, (side, 1), xycoords="axes fraction", ha=align, va="top", color=MUTED)
        return svg(figure, "forest", "Standardised improvement of each metric with its confidence interval")


def _draw_bounds(axes: Any, shown: Sequence[JudgedMetric], gates: Sequence[GateResult]) -> None:
    """Bars, and what they are; an arrow with its number in place of one so far out that it would squeeze the rest."""
    ends = [0.0, *(end for metric in shown for end in metric.d_z_interval or (metric.d_z or 0.0,))]
    width = max(ends) - min(ends)
    low, high = min(ends) - width, max(ends) + width
    marks = [(height, bound) for height, metric in enumerate(reversed(shown)) for bound in _bounds(metric, gates)]
    for height, bound in marks:
        if low <= bound <= high:
            axes.plot([bound, bound], [height - 0.3, height + 0.3], color=INK, linewidth=1.4)
            continue
        edge, marker, align, away = (low, "<", "left", 7) if bound < low else (high, ">", "right", -7)
        axes.plot(edge, height, marker, color=INK, markersize=4)
        axes.annotate(
            signed(bound, 1), (edge, height), (away, 0), textcoords="offset points", ha=align, va="center", color=INK
        )
    if marks:
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right", "va": "top"}
        axes.annotate("\N{BOX DRAWINGS LIGHT VERTICAL} bound of a gate", (1, 0), (0, -22), color=INK, **place)


def _bounds(metric: JudgedMetric, gates: Sequence[GateResult]) -> list[float]:
    """Of the gates that ask for an improvement, in standard deviations; those at zero have the axis."""
    asked = [result.gate for result in gates if result.gate.metric == metric.facts.name]
    bounds = [gate.bound for gate in asked if gate.limit is None]
    return [bound / metric.spread for bound in bounds if bound and metric.spread]


def difference_histogram(metric: JudgedMetric, delta_P: FloatArray) -> str:
    """How the prompts' differences are spread, with their mean and its interval over zero."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(INCH_WIDE / 2, 2.6), layout="constrained")
        axes = figure.add_subplot()
        bins = np.histogram_bin_edges(delta_P, bins=min(24, max(6, len(delta_P) // 2)))
        axes.hist(delta_P, bins=list(bins), color=NEUTRAL, alpha=0.55, edgecolor="none", rwidth=0.92)
        axes.axvline(0, color=MUTED, linewidth=1)
        colour = OUTCOME_COLOUR[metric.outcome]
        if metric.delta_interval is not None:
            axes.axvspan(metric.delta_interval.low, metric.delta_interval.high, color=colour, alpha=0.22, linewidth=0)
        axes.axvline(metric.delta, color=colour, linewidth=2)
        axes.set_xlabel(f"difference, {metric.facts.unit}")
        axes.set_ylabel("storyboards" if metric.facts.scored == "board" else "prompts")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        label = f"Differences of {metric.facts.title} by {'storyboard' if metric.facts.scored == 'board' else 'prompt'}"
        return svg(figure, f"differences-{metric.facts.name}", label)


def looks(found: Comparison) -> str:
    """Each primary's interval after every look of a sequential evaluation, one below the other."""
    if not found.looks:
        return ""
    shown = found.primaries
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(INCH_WIDE, 1.9 * max(1, len(shown))), layout="constrained")
        for place, metric in enumerate(shown):
            axes = figure.add_subplot(len(shown), 1, place + 1)
            known = [(look.prompts, look.intervals.get(metric.facts.name)) for look in found.looks]
            points = [(prompts, interval.low, interval.high) for prompts, interval in known if interval is not None]
            prompts_L, low_L, high_L = np.array(points, dtype=np.float64).reshape(-1, 3).T
            colour = OUTCOME_COLOUR[metric.outcome]
            axes.fill_between(prompts_L, low_L, high_L, color=colour, alpha=0.22, linewidth=0)
            axes.plot(prompts_L, (low_L + high_L) / 2, "o-", color=colour, markersize=4)
            axes.axhline(0, color=MUTED, linewidth=1)
            axes.set_ylabel(metric.facts.title)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set_xlabel("prompts drawn")
        return svg(figure, "looks", "Interval of each primary metric's difference after every look")


def _label(metric: JudgedMetric) -> str:
    return metric.facts.title + ("" if metric.primary else " (exploratory)")


def svg(figure: Figure, name: str, description: str) -> str:
    """Markup that is the same for the same figure, with `description` for those who cannot see it."""
    text = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    markup = text.getvalue()
    markup = markup[markup.index("<svg") :]
    for colour, variable in VARIABLES.items():
        markup = markup.replace(colour, f"var(--{variable})")
    for unwanted in UNWANTED:
        markup = re.sub(unwanted, "", markup, flags=re.DOTALL)
    markup = markup.replace("xlink:href", "href")
    frame = rf'<svg role="img" aria-label="{html.escape(description)}" \1>'
    return re.sub(r'<svg\b[^>]*?(viewBox="[^"]*")[^>]*>', frame, markup, count=1)
