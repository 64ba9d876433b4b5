"""Figures about over-fitting: how near pictures come to instance pictures, and how scorers agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from eval.agreement import Correlation, chance_rho
from eval.nearest import Nearness
from eval.plots import ACCENT, INCH_WIDE, INK, MUTED, NEUTRAL, RULE, STYLE, WORSE, svg
from eval.wording import signed

MOST_MARKS = 400
"""In a row; of more, so many are shown, evenly spaced in their order."""
DEEPEST = 0.5
"""Opacity of a correlation of 1; more would hide its number."""
CELL_INCH = 0.62


def heat_map(correlations: Sequence[Correlation], titles: Mapping[str, str], confidence: float) -> str:
    """Spearman's correlations of every two metrics that have one with any other, grey where they may be chance; a
    metric's name ends its row and heads its column. Empty where there is none. `titles`: by metric name."""
    known = {(one.one, one.other): one for one in correlations}
    having = {name for pair, one in known.items() if one.rho is not None for name in pair}
    names = [name for name in titles if name in having]
    if not names:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(INCH_WIDE, 0.4 * len(names)))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, INCH_WIDE / CELL_INCH)
        axes.set_ylim(len(names), 0)
        for row, name in enumerate(names):
            for column, other in enumerate(names[:row]):
                _cell(axes, (column, row), known[other, name], confidence)
            axes.text(row + 0.12, row + 0.5, titles[name], va="center", color=INK, parse_math=False)
        return svg(figure, "agreement", "Rank correlations of the metrics' improvements by prompt")


def _cell(axes: Any, place: tuple[int, int], found: Correlation, confidence: float) -> None:
    column, row = place
    middle: dict[str, Any] = {"x": column + 0.5, "y": row + 0.5, "ha": "center", "va": "center"}
    frame = Rectangle((column + 0.04, row + 0.05), 0.92, 0.9, linewidth=0, facecolor="none")
    axes.add_patch(frame)
    if found.rho is None:
        frame.set(edgecolor=RULE, linewidth=1)
        axes.text(s="\N{EN DASH}", color=MUTED, **middle)
        return
    frame.set(facecolor=ACCENT if found.rho > 0 else WORSE, alpha=DEEPEST * abs(found.rho))
    may_be_chance = abs(found.rho) <= chance_rho(found.prompts, confidence)
    axes.text(s=signed(found.rho, 2), color=MUTED if may_be_chance else INK, **middle)


def nearest(near: Nearness, baseline: str) -> str:
    """A mark for every picture's cosine to its nearest instance picture: the instances themselves, the base's pictures
    and the candidate's. Right of the line is nearer than any two instances are to each other."""
    rows = [("instance pictures", near.instances, MUTED), (baseline, near.base.cosines, NEUTRAL)]
    rows.append(("candidate", near.candidate.cosines, ACCENT))
    shown = [row for row in rows if row[1]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(INCH_WIDE, 0.8 + 0.42 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        if near.instances:
            axes.axvline(near.instances[-1], color=WORSE, linewidth=1.4, linestyle=(0, (4, 3)))
        for height, (_, cosines, colour) in enumerate(reversed(shown)):
            marks = _thinned(cosines)
            axes.plot(marks, [height] * len(marks), "|", color=colour, markersize=17, markeredgewidth=1.8, alpha=0.6)
        axes.set_yticks(range(len(shown)), [_counted(name, cosines) for name, cosines, _ in reversed(shown)])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.margins(x=0.03)
        axes.set_xlabel(f"{near.facts.unit} to the nearest instance picture")
        return svg(figure, "nearest", "How near each picture comes to the nearest instance picture")


def _thinned(cosines: Sequence[float]) -> list[float]:
    if len(cosines) <= MOST_MARKS:
        return list(cosines)
    places = np.linspace(0, len(cosines) - 1, MOST_MARKS).round().astype(int)
    return [cosines[place] for place in places]


def _counted(name: str, cosines: Sequence[float]) -> str:
    return f"{name} ({len(cosines):,})".replace("$", r"\$")
