"""Contrast: how far apart are light and dark?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from eval.pixels import PixelNumber
from eval.questions import about_all
from eval.scorers.base import Direction, Judge, Metric, Resources, number_told

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Contrast(Metric):
    """RMS contrast (Peli 1990, Contrast in complex images): the standard deviation of the pixels' luma."""

    title: ClassVar[str] = "Contrast"
    direction: ClassVar[Direction] = 0
    unit: ClassVar[str] = "RMS contrast"
    convention: ClassVar[str] = (
        "standard deviation of the BT.601 luma of sRGB values of 0 to 1, not divided by its mean: 0 is one grey, "
        "0.5 black and white in equal parts"
    )
    licence: ClassVar[str] = "none needed"
    decimals: ClassVar[int] = 3
    version: ClassVar[int] = 1

    metric: Literal["contrast"]

    def judge(self, resources: Resources) -> Judge:
        measured = PixelNumber("rms contrast", self.version, rms_contrast)
        return Judge(number_told(measured), about_all(measured))


def rms_contrast(rgb_HWC: NDArray[np.float64]) -> float:
    luma_HW = rgb_HWC @ LUMA
    return float(luma_HW.std() / 255)
