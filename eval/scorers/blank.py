"""Blank: is there nothing in the picture? A number that overflowed is drawn black."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from eval.cells import number
from eval.pixels import PixelNumber
from eval.questions import Answers, about_all
from eval.scorers.base import Direction, Judge, Metric, Resources, Sample, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Blank(Metric):
    """1 for a picture that is black, white or of any one colour, 0 for all others; their mean is the rate."""

    title: ClassVar[str] = "Blank pictures"
    direction: ClassVar[Direction] = -1
    unit: ClassVar[str] = "share"
    convention: ClassVar[str] = "1 where no colour channel's standard deviation exceeds the threshold, else 0"
    licence: ClassVar[str] = "none needed"
    decimals: ClassVar[int] = 3
    version: ClassVar[int] = 1

    metric: Literal["blank"]
    threshold: Annotated[float, Field(ge=0, le=127.5)] = 2.0
    """Largest standard deviation of a channel's values, 0 to 255, within a blank picture. A black dot on a hundredth of
    a white page has 25."""

    def judge(self, resources: Resources) -> Judge:
        spread = PixelNumber("largest spread", self.version, largest_spread)

        def score(sample: Sample, answers: Answers) -> Score:
            return Score(float(number(answers(spread, *sample.pictures)) <= self.threshold))

        return Judge(score, about_all(spread))


def largest_spread(rgb_HWC: NDArray[np.float64]) -> float:
    """Standard deviation over the pixels, of the channel that varies most."""
    return float(rgb_HWC.std(axis=(0, 1)).max())
