"""The largest of the cosines of which DINO is the mean."""

from __future__ import annotations

from tests.eval.references import Case
from tests.eval.references.dino import cosines_to_instances
from tests.eval.references.dino import weights as weights


def reference(case: Case) -> float:
    return max(cosines_to_instances(case))
