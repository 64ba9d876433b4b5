"""What metrics of storyboards share: how alike the frames are, pair by pair.

VBench (Huang et al. 2023, arXiv:2311.17982, section 4.1) compares each frame of a video with the one before it and with
the first, and takes negative cosines as 0. Frames of a storyboard are cuts, of which none is nearer to another, so here
all pairs count the same, as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.embeddings import mean_pair_cosine
from eval.errors import NotScored
from eval.images import GeneratedImage
from eval.questions import Answers, Question
from eval.scorers.base import Sample, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_FRAMES = 2


def answer_about(question: Question[Any], frame: GeneratedImage, answers: Answers) -> bytes:
    """Raises NotScored, naming the frame, where there is none: a storyboard is measured whole or not at all."""
    try:
        return answers(question, frame)
    except NotScored as reason:
        raise NotScored(f"frame {frame.frame}: {reason}") from None


def likeness(vectors: Sequence[NDArray[np.float64]], sample: Sample, showing: str) -> Score:
    """Mean cosine over all pairs of the frames that have a vector, of unit length; the others are counted.

    Raises:
        NotScored: fewer than two have one; it says that so few are `showing` what was looked for.
    """
    import numpy as np

    if len(vectors) < LEAST_FRAMES:
        raise NotScored(f"{len(vectors)} of {len(sample.pictures)} frames {showing}; two are the least")
    return Score(mean_pair_cosine(np.stack(vectors)), left_out=len(sample.pictures) - len(vectors))
