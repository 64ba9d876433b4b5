"""How far apart two sets of pictures are: the maximum mean discrepancy of their vectors (Gretton et al. 2012, JMLR 13).

It is the squared distance between the sets' means in the space that a kernel k spans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from eval.embeddings import reference_vectors, vector_D
from eval.errors import NotScored
from eval.images import Picture
from eval.questions import Answers, Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float64]
    Kernel = Callable[[Vectors, Vectors], Vectors]

ROWS = 256  # kernel values are summed in strips of so many rows: thirty thousand pictures then take 60 MB

# N, M pictures of a set, D width of their vectors


def between_sets(
    question: Question[Any], references: Sequence[Picture], distance: Callable[[Vectors, Vectors], float]
) -> Callable[[Sequence[Picture], Answers], float]:
    """A function that gives the distance between some pictures' vectors and the references'.

    It raises NotScored where a side has fewer than two pictures or one of the pictures is unreadable.
    """
    references_MD = reference_vectors(question, references)

    def measured(pictures: Sequence[Picture], answers: Answers) -> float:
        for side, these in (("in the set", pictures), ("to compare with", references)):
            if len(these) < 2:
                raise NotScored(f"only {len(these)} picture {side}; expected two at least")
        return distance(_vectors_ND(question, pictures, answers), references_MD(answers))

    return measured


def _vectors_ND(question: Question[Any], pictures: Sequence[Picture], answers: Answers) -> Vectors:
    import numpy as np

    rows = []
    for picture in pictures:
        try:
            rows.append(vector_D(answers(question, picture)))
        except NotScored as problem:
            raise NotScored(f"{picture.path.name}: {problem}; a set is measured whole or not at all") from None
    return np.stack(rows)


def unbiased_mmd(kernel: Kernel, x_ND: Vectors, y_MD: Vectors) -> float:
    """Squared discrepancy, their equation 3; it can fall below zero.

    It is also the mean over all subsets of any one size, so that none need be drawn.
    """
    return _within(kernel, x_ND) + _within(kernel, y_MD) - 2 * _between(kernel, x_ND, y_MD)


def biased_mmd(kernel: Kernel, x_ND: Vectors, y_MD: Vectors) -> float:
    """Squared discrepancy, their equation 5, with as many vectors on either side.

    A vector's likeness to itself counts, which makes the value depend on their number. So the larger set has the mean
    over all its subsets that are as large as the smaller set: the number that random subsets give, without the chance.
    """
    size = min(len(x_ND), len(y_MD))
    sides = [_within(kernel, side) * (size - 1) / size + _own(kernel, side) / size for side in (x_ND, y_MD)]
    return sum(sides) - 2 * _between(kernel, x_ND, y_MD)


def _between(kernel: Kernel, x_ND: Vectors, y_MD: Vectors) -> float:
    """Mean of k over all pairs."""
    strips = (kernel(x_ND[start : start + ROWS], y_MD) for start in range(0, len(x_ND), ROWS))
    return sum(float(strip.sum()) for strip in strips) / (len(x_ND) * len(y_MD))


def _within(kernel: Kernel, x_ND: Vectors) -> float:
    """Mean of k over all pairs of two different rows."""
    count = len(x_ND)
    return (_between(kernel, x_ND, x_ND) * count - _own(kernel, x_ND)) / (count - 1)


def _own(kernel: Kernel, x_ND: Vectors) -> float:
    """Mean of k over each row with itself."""
    return sum(float(kernel(row_D[None], row_D[None]).item()) for row_D in x_ND) / len(x_ND)
