"""Cosines between class tokens, pair after pair of frames."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from tests.eval.references import Case
from tests.eval.references.dino import cosines_to_instances
from tests.eval.references.dino import weights as weights


def reference(case: Case) -> float:
    pairs = list(combinations(case.pictures, 2))
    cosines = [cosines_to_instances(replace(case, pictures=[one], instances=[other]))[0] for one, other in pairs]
    return sum(cosines) / len(cosines)
