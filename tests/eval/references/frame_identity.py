"""insightface called as its users call it, pair after pair of frames."""

from __future__ import annotations

from itertools import combinations

from tests.eval.references import Case
from tests.eval.references.face_similarity import largest
from tests.eval.references.face_similarity import weights as weights


def reference(case: Case) -> float:
    faces = [largest(case.weights["pack"], picture).normed_embedding for picture in case.pictures]
    cosines = [float(one @ other) for one, other in combinations(faces, 2)]
    return sum(cosines) / len(cosines)
