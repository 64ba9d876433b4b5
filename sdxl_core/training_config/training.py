"""The settings of the one training loop."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sdxl_core.config import Config, PositiveInt, Precision, Probability
from sdxl_core.training_config.adapters import Adapter, LoraConfig
from sdxl_core.training_config.averaging import EmaConfig
from sdxl_core.training_config.noise import LossConfig, NoiseConfig, TimestepConfig
from sdxl_core.training_config.objectives import DiffusionObjective, Objective
from sdxl_core.training_config.watching import ValidationConfig, ValidationLossConfig, WandbConfig
from sdxl_core.training_config.weightings import UniformWeighting, Weighting


class TrainingConfig(Config):
    """The one training loop's settings."""

    objective: Objective = DiffusionObjective()
    adapter: Adapter = LoraConfig()
    """What is trained."""
    weighting: Weighting = UniformWeighting()
    """How much each timestep counts, by its signal-to-noise ratio (SNR)."""
    loss: LossConfig = LossConfig()
    noise: NoiseConfig = NoiseConfig()
    timesteps: TimestepConfig = TimestepConfig()
    max_steps: PositiveInt = 1000
    """Optimizer steps."""
    micro_batch_size: PositiveInt = 1
    """Rows per forward pass and process; a row of prior preservation is an instance picture with a class image."""
    accumulation_steps: PositiveInt = 1
    """Forward passes per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps in which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    caption_dropout: Probability = 0.0
    """Share of rows trained without their caption, for classifier-free guidance."""
    ema: EmaConfig | None = None
    precision: Precision = "fp32"
    """Of the frozen weights and of autocast; weights that are trained are always float32."""
    gradient_checkpointing: bool = False
    deterministic: bool = False
    """On a GPU: only kernels that give the same bits every time, which costs speed. On a CPU they always do."""
    seed: Annotated[int, Field(ge=0)] = 0
    save_every_steps: PositiveInt = 250
    """Optimizer steps between resumable bundles."""
    save_every_minutes: Annotated[float, Field(gt=0)] | None = None
    """Save also when so much time has passed since the last bundle."""
    keep_bundles: PositiveInt = 2
    max_skipped_steps: Annotated[int, Field(ge=0)] = 3
    """Steps in a row whose loss or gradient is not finite: so many are left out, at the next the run stops."""
    log_every_steps: PositiveInt = 10
    validation: ValidationConfig | None = None
    wandb: WandbConfig | None = None
    export: Literal["last", "best"] = "last"
    """Which step's weights the result has: the last's, or those of the step with the lowest validation loss."""
    processes: PositiveInt = 1
    """Above 1, the trainer starts through `accelerate launch`."""

    @field_validator("objective", "adapter", "weighting", mode="before")
    @classmethod
    def _kind_has_a_default(cls, section: Any, info: ValidationInfo) -> Any:
        """A section that does not say its kind is of the default one."""
        default = cls.model_fields[info.field_name or ""].default
        return {"kind": default.kind, **section} if isinstance(section, dict) and "kind" not in section else section

    @model_validator(mode="after")
    def _best_is_known(self) -> TrainingConfig:
        if self.export == "best" and self.validation_loss is None:
            raise ValueError("export: best is the step of the lowest validation loss; add a section validation.loss")
        if self.export == "best" and not self.validates_after(0):
            raise ValueError(f"export: best needs validation.loss.every_steps <= max_steps = {self.max_steps}")
        return self

    @property
    def validation_loss(self) -> ValidationLossConfig | None:
        return None if self.validation is None else self.validation.loss

    @property
    def validation_prompts(self) -> tuple[str, ...]:
        return () if self.validation is None else self.validation.prompts

    def validates_after(self, step: int) -> bool:
        """Whether the validation loss of any step after `step` is measured."""
        loss = self.validation_loss
        return loss is not None and self.max_steps // loss.every_steps * loss.every_steps > step

    @property
    def lasting(self) -> dict[str, Any]:
        """The settings that decide the weights after any given step, as JSON.

        The length of the run is among them only if the learning rate depends on it; which step is exported, never.
        """
        unlimited = {"max_steps"} if self.lr_schedule == "constant" else set()
        return self.model_dump(mode="json", exclude=CANNOT_CHANGE_RESULT | {"export"} | unlimited)


CANNOT_CHANGE_RESULT = {
    "save_every_steps",
    "save_every_minutes",
    "keep_bundles",
    "max_skipped_steps",
    "log_every_steps",
    "wandb",
}
"""Settings of training that change no byte of what it makes."""
