"""The leading metric's difference within each prompt category. Exploratory: not corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval import stats
from eval.pairing import Paired
from eval.result import Comparison
from eval.stats import Interval

SMALLEST = 3  # prompts that make a category worth a row


@dataclass(frozen=True)
class CategoryDelta:
    category: str
    prompts: int
    delta: float
    delta_interval: Interval | None


def by_category(paired: Paired, categories: Mapping[str, str], comparison: Comparison) -> list[CategoryDelta]:
    """`categories`: prompt id -> category. Empty when there are not two categories to tell apart."""
    of_unit = {unit: categories[prompt] for unit, (prompt, _) in zip(paired.units, paired.keys, strict=True)}
    delta_P = paired.per_prompt(paired.delta)
    members: dict[str, list[float]] = {}
    for category, delta in zip(of_unit.values(), delta_P.tolist(), strict=True):
        members.setdefault(category or "other", []).append(delta)
    found = [
        CategoryDelta(
            name,
            len(deltas),
            float(np.mean(deltas)),
            stats.mean_interval(
                np.array(deltas), comparison.confidence, comparison.resamples, [comparison.seed, place]
            ),
        )
        for place, (name, deltas) in enumerate(sorted(members.items()))
        if len(deltas) >= SMALLEST
    ]
    return found if len(found) > 1 else []
