"""Where the boxes and lines of a directed graph go: in columns, inputs to the left, after Sugiyama, Tagawa and Toda
(1981), "Methods for Visual Understanding of Hierarchical System Structures". The same graph gives the same drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

WIDTH, HEIGHT = 130, 40
"""Of a box, in pixels."""
_BETWEEN, _GAP, _LANE, _MARGIN = 26, 13, 4, 2
_SWEEPS = 8
Slot = tuple[str, int]
"""A node and a column: its own, or one that a line from it passes through."""


@dataclass(frozen=True)
class Drawing:
    corners: Mapping[str, tuple[float, float]]
    """Node -> x and y of its box's upper left corner."""
    lines: Sequence[str]
    """SVG paths."""
    width: float
    height: float


def layered(inputs: Mapping[str, Sequence[str]]) -> Drawing:
    """`inputs`: of every node the nodes it is made from, which stand before it."""
    column = _columns(inputs)
    slots = _slots(inputs, column)
    left: dict[Slot, list[Slot]] = {slot: [] for slots_ in slots for slot in slots_}
    for node, below in inputs.items():
        left[node, column[node]] = [(source, column[node] - 1) for source in below]
    for slot in left:
        if slot[1] > column[slot[0]]:
            left[slot] = [(slot[0], slot[1] - 1)]
    right: dict[Slot, list[Slot]] = {slot: [] for slot in left}
    for slot, before in left.items():
        for one in before:
            right[one].append(slot)
    slots = _untangled(slots, left, right)
    middles = _middles(slots, left, right, column)
    return _drawn(inputs, column, middles)


def _columns(inputs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The longest way from a node that is made from nothing; those themselves stand just before their first use."""
    column: dict[str, int] = {}
    for node, below in inputs.items():
        column[node] = 1 + max((column[one] for one in below), default=-1)
    for node, below in inputs.items():
        uses = [column[user] for user, sources in inputs.items() if node in sources]
        if not below and uses:
            column[node] = min(uses) - 1
    return column


def _slots(inputs: Mapping[str, Sequence[str]], column: Mapping[str, int]) -> list[list[Slot]]:
    """By column."""
    slots: list[list[Slot]] = [[] for _ in range(1 + max(column.values(), default=-1))]
    for node in inputs:
        last = max((column[user] for user, below in inputs.items() if node in below), default=0)
        for place in range(column[node], max(last, column[node] + 1)):
            slots[place].append((node, place))
    return slots


def _untangled(
    slots: list[list[Slot]], left: Mapping[Slot, Sequence[Slot]], right: Mapping[Slot, Sequence[Slot]]
) -> list[list[Slot]]:
    """Each column in the order of its neighbours' mean places, to and fro."""
    for _ in range(_SWEEPS):
        for towards, columns in ((left, slots), (right, slots[::-1])):
            place = {slot: number for found in slots for number, slot in enumerate(found)}
            for found in columns:
                found.sort(key=lambda slot: fmean([place[one] for one in towards[slot]] or [place[slot]]))
                place.update({slot: number for number, slot in enumerate(found)})
    return slots


def _middles(
    slots: Sequence[Sequence[Slot]],
    left: Mapping[Slot, Sequence[Slot]],
    right: Mapping[Slot, Sequence[Slot]],
    column: Mapping[str, int],
) -> dict[Slot, float]:
    """Heights of all slots' middles, near those of their neighbours."""
    middle: dict[Slot, float] = {}
    offsets = [_offsets(found, column) for found in slots]
    for found, offset in zip(slots, offsets, strict=True):
        middle |= {slot: below - offset[-1] / 2 for slot, below in zip(found, offset, strict=True)}
    for _ in range(_SWEEPS):
        for found, offset in zip(slots, offsets, strict=True):
            wanted = [fmean([middle[one] for one in (*left[slot], *right[slot])] or [middle[slot]]) for slot in found]
            middle |= dict(zip(found, _apart(wanted, offset), strict=True))
    return middle


def _offsets(slots: Sequence[Slot], column: Mapping[str, int]) -> list[float]:
    """How far below the first each has to stand at least."""
    heights = [HEIGHT if column[node] == place else _LANE for node, place in slots]
    offsets = [0.0]
    for above, below in pairwise(heights):
        offsets.append(offsets[-1] + (above + below) / 2 + _GAP)
    return offsets[: len(slots)]


def _apart(wanted: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """The heights nearest to those wanted that keep their distance: isotonic regression, by pooling neighbours."""
    pools: list[list[float]] = []
    for height, offset in zip(wanted, offsets, strict=True):
        pools.append([height - offset])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [fmean(pool) for pool in pools for _ in pool]
    return [level + offset for level, offset in zip(levels, offsets, strict=True)]


def _drawn(inputs: Mapping[str, Sequence[str]], column: Mapping[str, int], middles: Mapping[Slot, float]) -> Drawing:
    def x_of(place: int) -> float:
        return _MARGIN + place * (WIDTH + _BETWEEN)

    highest = min(middles.values(), default=0) - HEIGHT / 2 - _MARGIN
    y = {slot: middle - highest for slot, middle in middles.items()}
    lines = []
    for node, below in inputs.items():
        for source in below:
            way = [(source, place) for place in range(column[source], column[node])] + [(node, column[node])]
            path = f"M{x_of(column[source]) + WIDTH} {y[way[0]]:.1f}"
            for before, after in pairwise(way):
                start, end = x_of(before[1]) + WIDTH, x_of(after[1])
                half = (start + end) / 2
                path += f"C{half:g} {y[before]:.1f} {half:g} {y[after]:.1f} {end} {y[after]:.1f}"
                path += f"h{WIDTH}" if after is not way[-1] else ""
            lines.append(path)
    corners = {node: (x_of(place), round(y[node, place] - HEIGHT / 2, 1)) for node, place in column.items()}
    width = x_of(max(column.values(), default=0)) + WIDTH + _MARGIN
    height = max(y.values(), default=0) + HEIGHT / 2 + _MARGIN
    return Drawing(corners, lines, width, round(height, 1))
