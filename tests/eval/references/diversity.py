"""The package's own network on one pair after the other."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from tests.eval.references import Case
from tests.eval.references import lpips as pairs
from tests.eval.references.lpips import SETTINGS as SETTINGS
from tests.eval.references.lpips import weights as weights


def reference(case: Case) -> float:
    distances = [pairs.reference(replace(case, pictures=pair)) for pair in combinations(case.pictures, 2)]
    return sum(distances) / len(distances)
