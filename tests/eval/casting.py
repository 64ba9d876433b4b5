"""Votes for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations
from typing import Any

from eval.votes import Vote

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
HOSTILE = "<script>alert(1)</script>\n\u2028 {{ 7 * 7 }}"


def vote(voter: str = "ann", choice: str = "base", base: str = A, candidate: str = B, **more: Any) -> Vote:
    fields = {"time": datetime.now(UTC), "voter": voter, "run": "toy", "prompt_id": "p0", "replicate": 0}
    pictures = {"prompt": "a person", "base_picture": base, "candidate_picture": candidate, "left": "base"}
    return Vote.model_validate({**fields, **pictures, "choice": choice, **more})


def slow_alpha(units: list[list[str]]) -> float | None:
    """1 - observed / expected disagreement, over all ordered pairs of answers, written out."""
    units = [unit for unit in units if len(unit) > 1]
    everything = [answer for unit in units for answer in unit]
    count = len(everything)
    observed = sum(sum(x != y for x, y in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / max(count, 1)
    expected = sum(x != y for x, y in permutations(everything, 2)) / max(count * (count - 1), 1)
    return 1 - observed / expected if expected else None
