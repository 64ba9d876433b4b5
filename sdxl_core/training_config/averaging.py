"""The average of the trained weights, `training.ema`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sdxl_core.config import Config


class EmaConfig(Config):
    """Exponential moving average of the trained weights; what is exported is the average."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    warmup: bool = True
    """Start with a short average: decay = min(decay, (1 + step) / (10 + step))."""
