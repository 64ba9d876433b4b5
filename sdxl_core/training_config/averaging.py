"""The average of the trained weights, `training.ema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdxl_core.config import Config, PositiveInt
from sdxl_core.training_config.in_vain import refuse_in_vain
from sdxl_core.training_config.numbers import Positive


class EmaConfig(Config):
    """Exponential moving average of the trained weights; what is validated and exported is the average."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """The largest: weights from 1 / (1 - decay) steps ago still count a third of the newest."""
    warmup: Literal["ratio", "power"] = "ratio"
    """How the decay rises to its largest. With n the step, less update_after_step and one: ratio is (1 + n) / (10 + n);
    power is 1 - (1 + n / inv_gamma) ** -power (diffusers' use_ema_warmup), slower, for long runs."""
    inv_gamma: Positive = 1.0
    """Of power: n where it begins to bite."""
    power: Positive = 2 / 3
    """Of power: 2/3 reaches 0.999 after 31 600 steps, 3/4 after 10 000."""
    update_after_step: Annotated[int, Field(ge=0)] = 0
    """Up to here, and one step more, the average is the weights themselves."""
    min_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The smallest, once averaging has begun. Equal to `decay`: no warm-up at all."""
    update_every_steps: PositiveInt = 1
    """k: only every k-th step joins the average, with decay ** k, so the average reaches as far back."""
    device: Literal["same", "cpu"] = "same"
    """cpu: the average waits in main memory, which takes a copy at every update; raise update_every_steps with it."""

    @model_validator(mode="after")
    def _in_order(self) -> EmaConfig:
        if self.min_decay > self.decay:
            raise ValueError(f"expected min_decay <= decay, got min_decay {self.min_decay} and decay {self.decay}")
        if self.warmup != "power":
            refuse_in_vain(self, "inv_gamma", "power", needs="warmup: power")
        return self
