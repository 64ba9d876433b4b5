"""How far several judges agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    units: int
    """Judged by two or more."""
    unanimous: int
    alpha: float | None
    """Krippendorff's, of nominal answers: 1 where all agree, 0 where they agree as chance would; none where nothing was
    judged by two, or everybody gave one answer everywhere, so that there is nothing to agree about."""


def agreement(answers: Iterable[Sequence[Hashable]]) -> Agreement:
    """`answers`: of each unit, those of whoever judged it, however many.

    Alpha is 1 - (n - 1) x sum over units of (disagreeing ordered pairs / (m - 1)) / (disagreeing ordered pairs among
    all n answers), with m answers of a unit: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section C.
    Unlike Fleiss' kappa it needs no equal number of answers. Units with one answer say nothing.
    """
    units = [Counter(given) for given in answers if len(given) > 1]
    together: Counter[Hashable] = sum(units, Counter())
    expected = _disagreeing(together)
    observed = sum(_disagreeing(unit) / (unit.total() - 1) for unit in units)
    alpha = 1 - (together.total() - 1) * observed / expected if expected else None
    return Agreement(len(units), sum(len(unit) == 1 for unit in units), alpha)


def _disagreeing(answers: Counter[Hashable]) -> int:
    """Ordered pairs of answers that differ."""
    return int(answers.total()) ** 2 - sum(count**2 for count in answers.values())
