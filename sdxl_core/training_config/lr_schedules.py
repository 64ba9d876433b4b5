"""How learning rates go on: `training.lr_schedule`, `training.learning_rates`.

The kinds are those of diffusers' `get_scheduler`, by their names there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sdxl_core.config import Config, PositiveInt
from sdxl_core.training_config.numbers import NotNegative, Positive, Rate

if TYPE_CHECKING:
    from sdxl_core.training_config.training import TrainingConfig


class ScheduleConfig(Config):
    """What is common to all."""

    depends_on_length: ClassVar[bool] = True
    """Whether the rate at a step depends on how many steps there are."""

    def check(self, training: TrainingConfig) -> None:
        """Raises ValueError where other settings do not go with this schedule."""


class ConstantSchedule(ScheduleConfig):
    """The same rate, after `warmup_steps` if there are any."""

    depends_on_length: ClassVar[bool] = False
    kind: Literal["constant"] = "constant"


class ConstantWithWarmupSchedule(ScheduleConfig):
    """The same as `constant`, by diffusers' name."""

    depends_on_length: ClassVar[bool] = False
    kind: Literal["constant_with_warmup"]


class LinearSchedule(ScheduleConfig):
    """Falls evenly to zero."""

    kind: Literal["linear"]


class CosineSchedule(ScheduleConfig):
    """Falls as a cosine."""

    kind: Literal["cosine"]
    cycles: Positive = 0.5
    """Periods of the cosine; half a one ends at zero."""


class CosineWithRestartsSchedule(ScheduleConfig):
    """Falls as half a cosine to zero, so many times, beginning anew each time."""

    kind: Literal["cosine_with_restarts"]
    cycles: PositiveInt = 1


class PolynomialSchedule(ScheduleConfig):
    """Falls to `end_rate` as a power of what is left."""

    kind: Literal["polynomial"]
    power: Positive = 1.0
    end_rate: NotNegative = 1e-7
    """What `learning_rate` falls to; scaled rates and those of other parts fall in proportion."""

    def check(self, training: TrainingConfig) -> None:
        if self.end_rate >= training.learning_rate:
            raise ValueError(
                f"lr_schedule.end_rate: expected less than learning_rate = {training.learning_rate:g}, "
                f"got {self.end_rate:g}"
            )


class PiecewiseConstantSchedule(ScheduleConfig):
    """A factor of the rate for each of several stretches of steps."""

    depends_on_length: ClassVar[bool] = False
    kind: Literal["piecewise_constant"]
    factors: Annotated[tuple[NotNegative, ...], Field(min_length=1)]
    until_steps: tuple[PositiveInt, ...]
    """Optimizer steps at which a factor gives way to the next; one fewer than factors."""

    @model_validator(mode="after")
    def _fits(self) -> PiecewiseConstantSchedule:
        if len(self.until_steps) != len(self.factors) - 1 or list(self.until_steps) != sorted(set(self.until_steps)):
            raise ValueError(
                f"expected factors and, rising, one step fewer in until_steps; got {len(self.factors)} factors and "
                f"until_steps {list(self.until_steps)}"
            )
        return self

    def check(self, training: TrainingConfig) -> None:
        if training.warmup_steps > 0:
            raise ValueError(
                "lr_schedule.kind = piecewise_constant states its own beginning: expected warmup_steps = 0, "
                f"got {training.warmup_steps}. Begin with a smaller factor"
            )


LrSchedule = Annotated[
    ConstantSchedule
    | ConstantWithWarmupSchedule
    | LinearSchedule
    | CosineSchedule
    | CosineWithRestartsSchedule
    | PolynomialSchedule
    | PiecewiseConstantSchedule,
    Field(discriminator="kind"),
]


class LearningRates(Config):
    """Rates of parts other than the UNet. Default: `training.learning_rate`."""

    text_encoder: Rate | None = None
    text_encoder_2: Rate | None = None
    tokens: Rate | None = None
