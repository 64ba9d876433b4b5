"""The estimator's three sums as double loops, averaged over all choices of as many pictures from either side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product

from tests.eval.references import Case
from tests.eval.references.clip_score import weights as weights
from tests.eval.references.kid import unit_features


def reference(case: Case) -> float:
    ours, theirs = (unit_features(case, pictures).tolist() for pictures in (case.pictures, case.instances))
    size = min(len(ours), len(theirs))
    choices = list(product(combinations(ours, size), combinations(theirs, size)))
    return sum(distance(some, others) for some, others in choices) / len(choices)


def distance(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    return 1000 * (mean(first, first) + mean(second, second) - 2 * mean(first, second))


def mean(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    total = 0.0
    for x in first:
        for y in second:
            total += math.exp(-(math.dist(x, y) ** 2) / (2 * 10**2))
    return total / (len(first) * len(second))
