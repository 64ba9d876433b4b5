"""The settings of the one training loop."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sdxl_core.config import Config, PositiveInt, Precision, Probability
from sdxl_core.training_config.adapters import Adapter, LoraConfig
from sdxl_core.training_config.averaging import EmaConfig
from sdxl_core.training_config.noise import LossConfig, NoiseConfig, ScheduleConfig, TimestepConfig
from sdxl_core.training_config.objectives import DiffusionObjective, Objective
from sdxl_core.training_config.saving_memory import Attention, QuantizationConfig
from sdxl_core.training_config.text import NewToken, TextEncodersConfig
from sdxl_core.training_config.watching import ValidationConfig, WandbConfig
from sdxl_core.training_config.weightings import UniformWeighting, Weighting


class TrainingConfig(Config):
    """The one training loop's settings."""

    objective: Objective = DiffusionObjective()
    adapter: Adapter = LoraConfig()
    """What is trained."""
    text_encoders: TextEncodersConfig | None = None
    """Train the text encoders too. Unset: captions are encoded once, before training."""
    new_tokens: Annotated[tuple[NewToken, ...], Field(max_length=64)] = ()
    """Textual inversion; with an adapter, pivotal tuning."""
    schedule: ScheduleConfig = ScheduleConfig()
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
    """Keep only the inputs of the networks' blocks for the backward pass, and compute the blocks again there."""
    checkpoint_every_blocks: PositiveInt = 1
    """With gradient_checkpointing: compute one block out of so many again and keep the others; 2 takes about half of
    the time for about half of the saving."""
    attention: Attention = "auto"
    """auto and sdpa: torch's own kernels; xformers: that package's; math: plain matrix products, which need the most
    memory."""
    base_quantization: QuantizationConfig | None = None
    """The frozen UNet in fewer bits, for adapters. Pictures for the report are drawn with the base as it is."""
    offload_base: bool = False
    """Full fine-tunes whose objective asks the base: keep the base's copy in main memory while it is not asked."""
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
    processes: PositiveInt = 1
    """Above 1, the trainer starts through `accelerate launch`."""

    @field_validator("objective", "adapter", "weighting", mode="before")
    @classmethod
    def _kind_has_a_default(cls, section: Any, info: ValidationInfo) -> Any:
        """A section that does not say its kind is of the default one."""
        default = cls.model_fields[info.field_name or ""].default
        return {"kind": default.kind, **section} if isinstance(section, dict) and "kind" not in section else section

    @model_validator(mode="after")
    def _something_is_trained(self) -> TrainingConfig:
        if self.adapter.kind == "none" and not self.new_tokens:
            raise ValueError("adapter: {kind: none} trains nothing but new_tokens, and there are none; add some")
        if self.adapter.kind == "none" and self.text_encoders is not None:
            raise ValueError("text_encoders are trained by an adapter: set adapter.kind to lora or full")
        if len({new.token for new in self.new_tokens}) < len(self.new_tokens):
            raise ValueError("new_tokens: a token stands twice")
        return self

    @model_validator(mode="after")
    def _memory_is_saved_where_it_can_be(self) -> TrainingConfig:
        if self.checkpoint_every_blocks > 1 and not self.gradient_checkpointing:
            raise ValueError("checkpoint_every_blocks needs gradient_checkpointing: true")
        if self.adapter.kind == "full" and self.base_quantization is not None:
            raise ValueError(
                "base_quantization is for frozen weights, and adapter: {kind: full} trains them; leave it out"
            )
        if self.adapter.kind != "full" and self.offload_base:
            raise ValueError("offload_base: only adapter: {kind: full} keeps a copy of the base; leave it out")
        return self

    @property
    def live_text(self) -> bool:
        """Whether captions have to be encoded in every step."""
        return self.text_encoders is not None or bool(self.new_tokens)

    @property
    def lasting(self) -> dict[str, Any]:
        """The settings that decide the weights after any given step, as JSON.

        The length of the run is among them only if the learning rate depends on it.
        """
        unlimited = {"max_steps"} if self.lr_schedule == "constant" else set()
        return self.model_dump(mode="json", exclude=CANNOT_CHANGE_RESULT | unlimited)


CANNOT_CHANGE_RESULT = {
    "save_every_steps",
    "save_every_minutes",
    "keep_bundles",
    "max_skipped_steps",
    "log_every_steps",
    "offload_base",
    "wandb",
}
"""Settings of training that change no byte of what it makes."""
