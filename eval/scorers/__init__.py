"""The metrics. To add one: a file here with a `Metric` subclass, and its line in `SCORERS`."""

from __future__ import annotations

import operator
from functools import reduce
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from eval.scorers.base import Metric
from eval.scorers.clip_i import ClipI
from eval.scorers.clip_score import ClipScore
from eval.scorers.lpips import Lpips
from eval.scorers.ssim import Ssim

SCORERS: dict[str, type[Metric]] = {
    "clip_score": ClipScore,
    "clip_i": ClipI,
    "lpips": Lpips,
    "ssim": Ssim,
}

if TYPE_CHECKING:
    MetricConfig = Metric
else:  # one of the registered classes, told apart by `metric`
    MetricConfig = Annotated[reduce(operator.or_, SCORERS.values()), Field(discriminator="metric")]
