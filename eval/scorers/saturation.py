"""Saturation: how colourful is the picture? Models that were tuned on preferences tend to overdo it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from eval.pixels import PixelNumber
from eval.questions import about_all
from eval.scorers.base import Direction, Judge, Metric, Resources, number_told

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Saturation(Metric):
    """Colourfulness (Hasler and Suesstrunk 2003, Measuring colourfulness in natural images).

    Not the S of HSV, which calls nearly black pixels fully saturated.
    """

    title: ClassVar[str] = "Saturation"
    direction: ClassVar[Direction] = 0
    unit: ClassVar[str] = "colourfulness"
    convention: ClassVar[str] = (
        "colourfulness of Hasler and Suesstrunk on sRGB values of 0 to 255: 0 is grey, 33 moderate, 59 quite, "
        "109 extremely colourful"
    )
    licence: ClassVar[str] = "none needed"
    decimals: ClassVar[int] = 1
    version: ClassVar[int] = 1

    metric: Literal["saturation"]

    def judge(self, resources: Resources) -> Judge:
        measured = PixelNumber("colourfulness", self.version, colourfulness)
        return Judge(number_told(measured), about_all(measured))


def colourfulness(rgb_HWC: NDArray[np.float64]) -> float:
    """Their M3 of the opponent values rg = R - G and yb = (R + G) / 2 - B, which have signs."""
    red, green, blue = rgb_HWC[..., 0], rgb_HWC[..., 1], rgb_HWC[..., 2]
    rg, yb = red - green, (red + green) / 2 - blue
    return math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())
