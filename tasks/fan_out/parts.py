"""How what is missing is divided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

Ranges = tuple[tuple[int, int], ...]
"""First and last numbers of runs: what is missing of a large set is told in a few of them."""


def divide(batches: Sequence[Sequence[int]], shards: int) -> list[list[int]]:
    """Numbers of each shard: whole batches that follow each other, as many (or one more) for each; none gets nothing.

    A batch takes as long with few rows as with all, so the shards take as long as each other.
    """
    count = min(shards, len(batches))
    bounds = [len(batches) * i // count for i in range(count + 1)] if count else []
    return [[number for batch in batches[first:last] for number in batch] for first, last in pairwise(bounds)]


def to_ranges(numbers: Iterable[int]) -> Ranges:
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def from_ranges(ranges: Ranges) -> list[int]:
    return [number for first, last in ranges for number in range(first, last + 1)]
