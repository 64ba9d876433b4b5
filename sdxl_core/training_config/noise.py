"""Noise, timesteps and how their errors count: `training.noise`, `training.timesteps`, `training.loss`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdxl_core.config import Config
from sdxl_core.training_config.in_vain import refuse_in_vain
from sdxl_core.training_config.numbers import NotNegative, Positive


class NoiseConfig(Config):
    """How the noise differs from independent normal numbers. By default it does not."""

    offset: NotNegative = 0.0
    """Adds one normal number, so scaled, to each channel as a whole (Guttenberg 2023): darker and brighter pictures."""
    perturbation: NotNegative = 0.0
    """Noises the input with more noise, so scaled, than the target says (Ning et al. 2023, arXiv:2301.11706)."""
    multires_levels: Annotated[int, Field(ge=0, le=10)] = 0
    """Adds noise of so many coarser resolutions (pyramid noise, Whitaker 2023), scaled back to variance 1."""
    multires_discount: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Factor of each coarser resolution."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> NoiseConfig:
        if not self.multires_levels:
            refuse_in_vain(self, "multires_discount", needs="multires_levels")
        return self


class ScheduleConfig(Config):
    """The noise schedule, where it is not to be the checkpoint's own. What is drawn afterwards has the new one."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """What the network predicts. Default: what the checkpoint's scheduler says."""
    zero_terminal_snr: bool = False
    """The last timestep is noise alone (Lin et al. 2023, arXiv:2305.08891): dark and bright pictures. Needs
    v_prediction."""

    @model_validator(mode="after")
    def _noise_alone_tells_nothing(self) -> ScheduleConfig:
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "zero_terminal_snr needs prediction_type: v_prediction; where the picture is noise alone, to predict "
                "the noise teaches nothing"
            )
        return self

    @property
    def changed(self) -> bool:
        return self.prediction_type is not None or self.zero_terminal_snr


class TimestepConfig(Config):
    """Which timesteps are trained, and how often. By default all, equally."""

    low: Annotated[int, Field(ge=0)] = 0
    """Lowest timestep, the least noise."""
    high: Annotated[int, Field(gt=0)] | None = None
    """Timesteps are below this. Default: all, that is 1000."""
    distribution: Literal["uniform", "logit_normal", "cubic"] = "uniform"
    """logit_normal (Esser et al. 2024, arXiv:2403.03206): most around the middle; cubic (T2I-Adapter, Mou et al. 2023,
    arXiv:2302.08453): most where noise is strong."""
    mean: float = 0.0
    """Of logit_normal: above 0, more noise."""
    deviation: Positive = 1.0
    """Of logit_normal."""

    @model_validator(mode="after")
    def _in_order(self) -> TimestepConfig:
        if self.high is not None and self.high <= self.low:
            raise ValueError(f"expected low < high, got low {self.low} and high {self.high}")
        return self

    @model_validator(mode="after")
    def _has_an_effect(self) -> TimestepConfig:
        if self.distribution != "logit_normal":
            refuse_in_vain(self, "mean", "deviation", needs="distribution: logit_normal")
        return self


class LossConfig(Config):
    """How a difference between prediction and target counts."""

    kind: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    """huber and smooth_l1 are quadratic below `threshold` and linear above (pseudo-Huber, Khrapov et al. 2024,
    arXiv:2403.16728), scaled to be like l2 and like l1 respectively."""
    threshold: Positive = 0.1
    schedule: Literal["constant", "exponential", "snr"] = "snr"
    """How the threshold falls from 1 at the least noise to `threshold` at the most."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> LossConfig:
        if self.kind in ("l2", "l1"):
            refuse_in_vain(self, "threshold", "schedule", needs="kind: huber or smooth_l1")
        return self
