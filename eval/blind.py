"""Two pictures shown without saying whose they are: who stands left, and which pair comes when.

Both follow from the voter's name and the pictures alone, so that a page opened again goes on as before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

from eval.votes import Pair

Item = TypeVar("Item")


def left_of(voter: str, pair: Pair) -> str:
    """Which of two pictures stands left: either with the same chance, whoever drew it."""
    return sorted(pair)[_digest("left", voter, pair)[0] & 1]


def in_turn(voter: str, items: Iterable[Item], pair_of: Callable[[Item], Pair]) -> list[Item]:
    """In the voter's own random order, which further items do not change."""
    return sorted(items, key=lambda item: _digest("turn", voter, pair_of(item)))


def _digest(purpose: str, voter: str, pair: Pair) -> bytes:
    return hashlib.sha256("\n".join((purpose, voter, *sorted(pair))).encode()).digest()
