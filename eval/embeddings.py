"""Vectors that networks make of pictures, and what scorers that compare them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from eval.errors import EvalError, NotScored
from eval.images import Picture
from eval.questions import Answers, Ask, Question

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# B rows, D width of the embedding

ROWS_AT_ONCE = 512
"""Of a matrix of all against all, which may be larger than memory."""


def unit_rows(embeddings_BD: torch.Tensor) -> list[bytes]:
    """Each row at unit length, as little-endian float32."""
    import torch

    rows_BD: NDArray[np.float32] = torch.nn.functional.normalize(embeddings_BD.float(), dim=1).cpu().numpy()
    return [row_D.astype("<f4").tobytes() for row_D in rows_BD]


def vector_D(answer: bytes) -> NDArray[np.float64]:
    import numpy as np

    return np.frombuffer(answer, dtype="<f4").astype(np.float64)


def about_references(question: Question[Any], references: Sequence[Picture]) -> tuple[Ask, ...]:
    return tuple(Ask(question, (picture,)) for picture in references)


def reference_vectors(
    question: Question[Any], references: Sequence[Picture]
) -> Callable[[Answers], NDArray[np.float64]]:
    """A function that gives the vectors of the pictures that are compared with, one a row; it raises EvalError for an
    unreadable one."""
    known: list[NDArray[np.float64]] = []

    def vectors_ND(answers: Answers) -> NDArray[np.float64]:
        import numpy as np

        if not known:
            known.append(np.stack([_reference_D(question, picture, answers) for picture in references]))
        return known[0]

    return vectors_ND


def mean_cosine(instances_ND: NDArray[np.float64], picture_D: NDArray[np.float64]) -> float:
    """Of unit-length vectors: the mean of cosines is the product with the mean."""
    return float(instances_ND.mean(axis=0) @ picture_D)


def mean_pair_cosine(vectors_ND: NDArray[np.float64]) -> float:
    """Over all pairs of different rows, which are of unit length."""
    import numpy as np

    return float((vectors_ND @ vectors_ND.T)[np.triu_indices(len(vectors_ND), k=1)].mean())


def nearest_row(instances_ND: NDArray[np.float64], picture_D: NDArray[np.float64]) -> tuple[int, float]:
    """Which row has the highest cosine with a vector, and that cosine; all of unit length."""
    cosines_N = instances_ND @ picture_D
    place = int(cosines_N.argmax())
    return place, float(cosines_N[place])


def nearest_others(vectors_ND: NDArray[np.float64]) -> list[tuple[int, float]]:
    """Of each row, `nearest_row` among all others; there have to be two at least."""
    import numpy as np

    found: list[tuple[int, float]] = []
    for start in range(0, len(vectors_ND), ROWS_AT_ONCE):
        cosines_BN = vectors_ND[start : start + ROWS_AT_ONCE] @ vectors_ND.T
        rows_B = np.arange(len(cosines_BN))
        cosines_BN[rows_B, start + rows_B] = -np.inf
        places_B = cosines_BN.argmax(axis=1)
        found += zip(places_B.tolist(), cosines_BN[rows_B, places_B].tolist(), strict=True)
    return found


def _reference_D(question: Question[Any], picture: Picture, answers: Answers) -> NDArray[np.float64]:
    try:
        return vector_D(answers(question, picture))
    except NotScored as problem:
        advice = "prepare the dataset again, or take it out of the folder"
        raise EvalError(f"{picture.path.name}, to compare with: {problem}; {advice}") from problem
