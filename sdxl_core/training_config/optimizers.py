"""What makes a step of a gradient, `training.optimizer`. What each is good for: docs/training/optimizers.md."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sdxl_core.config import Config, PositiveInt
from sdxl_core.errors import UserError
from sdxl_core.training_config.numbers import Decay, NotNegative, Positive

if TYPE_CHECKING:
    from sdxl_core.training_config.training import TrainingConfig

PRODIGY_LOWEST_RATE = 0.1
"""diffusers' trainers warn at this rate and below that Prodigy will hardly move."""


class OptimizerConfig(Config):
    """What is common to all."""

    separable: ClassVar[bool] = True
    """A tensor's update depends on its own gradient and state alone, so that tensors may be updated one by one."""
    elementwise: ClassVar[bool] = False
    """A number's update depends on its own gradient and state alone, so that a tensor may be divided."""
    package: ClassVar[tuple[str, str] | None] = None
    """A package that is not always installed, and the extra that installs it."""

    weight_decay: NotNegative = 0.01
    """Decoupled: a step takes this share of the weight, times the rate. Learned tokens are never decayed."""

    def check(self, training: TrainingConfig) -> None:
        """Raises ValueError where other settings do not go with this optimizer."""

    def require(self) -> None:
        """Raises UserError where the package that it needs is not installed. Imports nothing."""
        if self.package is not None and find_spec(self.package[0]) is None:
            module, extra = self.package
            raise UserError(f"training.optimizer needs the package {module}: install with pip install -e '.[{extra}]'")


class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    elementwise: ClassVar[bool] = True

    kind: Literal["adamw"] = "adamw"
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    epsilon: Positive = 1e-8


class AdamW8bitConfig(OptimizerConfig):
    """AdamW with moments in 8 bits, quantised block by block (Dettmers et al. 2022, arXiv:2110.02861)."""

    package: ClassVar[tuple[str, str] | None] = ("bitsandbytes", "8bit")

    kind: Literal["adamw_8bit"]
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    epsilon: Positive = 1e-8


class AdafactorConfig(OptimizerConfig):
    """Adafactor (Shazeer & Stern 2018, arXiv:1804.04235) at the configured rate: no relative step, no scaling by the
    size of the weights, as trainers of diffusion models use it."""

    kind: Literal["adafactor"]
    clip_threshold: Positive = 1.0
    """Largest root mean square of a tensor's update, before the rate."""
    decay_exponent: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The second moment's decay at step t is 1 - t ** -decay_exponent."""
    epsilon: Positive = 1e-30
    """Added to squared gradients."""


class LionConfig(OptimizerConfig):
    """Lion: the sign of a momentum (Chen et al. 2023, arXiv:2302.06675). The paper takes 3 to 10 times less rate and as
    much more decay than for AdamW."""

    elementwise: ClassVar[bool] = True

    kind: Literal["lion"]
    weight_decay: NotNegative = 0.1
    beta1: Decay = 0.9
    beta2: Decay = 0.99


class ProdigyConfig(OptimizerConfig):
    """Prodigy: AdamW that estimates its own rate d (Mishchenko & Defazio 2023, arXiv:2306.06101). Its authors' settings
    for diffusion models; the rate is d times `learning_rate`, which is to be 1."""

    separable: ClassVar[bool] = False

    kind: Literal["prodigy"]
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    beta3: Decay | None = None
    """Of the estimate of d. Default: the root of beta2."""
    epsilon: Positive = 1e-8
    d0: Positive = 1e-6
    """First estimate; 1e-5 or 1e-4 where d does not grow."""
    d_coef: Positive = 1.0
    """Multiplies the estimate: the way to a higher or lower rate."""
    growth_rate: Annotated[float, Field(gt=1)] | None = None
    """Most that d grows by in a step. Default: any."""
    bias_correction: bool = True
    safeguard_warmup: bool = True
    """Keep a rising rate, as in warm-up and after restarts, from raising the estimate."""
    slice_every: PositiveInt = 1
    """Estimate d from every so manieth weight: less memory; 11 is the authors' suggestion."""

    def check(self, training: TrainingConfig) -> None:
        rate = training.learning_rate
        if rate <= PRODIGY_LOWEST_RATE:
            raise ValueError(
                f"optimizer.kind = prodigy estimates the rate itself: expected learning_rate = 1, got {rate:g}. Set "
                "training.learning_rate=1, and optimizer.d_coef for more or less"
            )
        if training.scale_lr != "none":
            raise ValueError("optimizer.kind = prodigy estimates the rate itself: expected scale_lr = none")
        others = training.learning_rates.model_dump(exclude_none=True)
        if any(other != rate for other in others.values()):
            raise ValueError("optimizer.kind = prodigy has one rate for all parts: remove learning_rates")
        if training.text_encoders is not None and training.text_encoders.until_step is not None:
            raise ValueError(
                "optimizer.kind = prodigy moves and decays all parts alike, so none can stop: leave out "
                "text_encoders.until_step"
            )
        restarts = training.lr_schedule.kind == "cosine_with_restarts"
        if not self.safeguard_warmup and (training.warmup_steps > 0 or restarts):
            raise ValueError(
                "optimizer.kind = prodigy overestimates its rate after warm-up or restarts: set "
                "optimizer.safeguard_warmup=true, or take no warmup_steps and lr_schedule=constant or cosine"
            )


class ScheduleFreeConfig(OptimizerConfig):
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682): trained in one place, used as the average of the
    steps. It needs no schedule and no length; warm-up is recommended."""

    separable: ClassVar[bool] = False

    kind: Literal["schedule_free"]
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """How near to the average gradients are taken; 0.95 to 0.98 for long runs."""
    beta2: Decay = 0.999
    epsilon: Positive = 1e-8
    average_power: NotNegative = 0.0
    """The average weighs step k by k to this power."""
    rate_power: NotNegative = 2.0
    """The average weighs a step by the highest rate so far to this power."""

    def check(self, training: TrainingConfig) -> None:
        if training.ema is not None:
            raise ValueError(
                "optimizer.kind = schedule_free already averages the weights, and ema would average those between: "
                "set training.ema=null"
            )
        if training.lr_schedule.kind not in ("constant", "constant_with_warmup"):
            raise ValueError(
                "optimizer.kind = schedule_free has its average in place of a schedule: expected lr_schedule = "
                f"constant, with warmup_steps if you like, got {training.lr_schedule.kind}"
            )
        if training.text_encoders is not None and training.text_encoders.until_step is not None:
            raise ValueError(
                "optimizer.kind = schedule_free averages on at a rate of zero, so nothing stops: leave out "
                "text_encoders.until_step"
            )


Optimizer = Annotated[
    AdamWConfig | AdamW8bitConfig | AdafactorConfig | LionConfig | ProdigyConfig | ScheduleFreeConfig,
    Field(discriminator="kind"),
]
