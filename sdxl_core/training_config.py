"""Typed, closed configuration of training. Importing this imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sdxl_core.config import Config, PositiveInt, Precision, Probability

LoraTargets = Literal["attention", "attention+feed-forward"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class LoraConfig(Config):
    """Low-rank adapter of the UNet (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 16
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale is alpha / rank. Default: the rank, that is a scale of 1."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: LoraTargets = "attention"

    @property
    def scaled_alpha(self) -> float:
        return float(self.rank if self.alpha is None else self.alpha)


class FullConfig(Config):
    """No adapter: all weights of the UNet itself are trained, in float32."""

    kind: Literal["full"]


Adapter = Annotated[LoraConfig | FullConfig, Field(discriminator="kind")]


class UniformWeighting(Config):
    """Every timestep weighs the same."""

    kind: Literal["uniform"] = "uniform"


class MinSnrWeighting(Config):
    """min(SNR, gamma): high signal-to-noise ratios weigh no more than gamma (Hang et al. 2023, arXiv:2303.09556)."""

    kind: Literal["min_snr"]
    gamma: Positive = 5.0


class SoftMinSnrWeighting(Config):
    """SNR gamma / (SNR + gamma): as min_snr, without its corner (Crowson et al. 2024, arXiv:2401.11605)."""

    kind: Literal["soft_min_snr"]
    gamma: Positive = 5.0


class DebiasedWeighting(Config):
    """1 / sqrt(SNR) of the noise's error, SNR capped (Yu et al. 2023, arXiv:2310.08442)."""

    kind: Literal["debiased"]
    largest_snr: Positive = 1000.0


class P2Weighting(Config):
    """(k + SNR) ** -gamma of the noise's error (Choi et al. 2022, arXiv:2204.00227)."""

    kind: Literal["p2"]
    gamma: NotNegative = 1.0
    k: Positive = 1.0


Weighting = Annotated[
    UniformWeighting | MinSnrWeighting | SoftMinSnrWeighting | DebiasedWeighting | P2Weighting,
    Field(discriminator="kind"),
]


class DiffusionObjective(Config):
    """Predict the noise (Ho et al. 2020, L_simple)."""

    kind: Literal["diffusion"] = "diffusion"


class PriorPreservationObjective(Config):
    """DreamBooth: the instance pictures' loss plus `prior_weight` times the class images' (needs section `prior`)."""

    kind: Literal["prior_preservation"]
    prior_weight: NotNegative = 1.0


Objective = Annotated[DiffusionObjective | PriorPreservationObjective, Field(discriminator="kind")]


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


class LossConfig(Config):
    """How a difference between prediction and target counts."""

    kind: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    """huber and smooth_l1 are quadratic below `threshold` and linear above (pseudo-Huber, Khrapov et al. 2024,
    arXiv:2403.16728), scaled to be like l2 and like l1 respectively."""
    threshold: Positive = 0.1
    schedule: Literal["constant", "exponential", "snr"] = "snr"
    """How the threshold falls from 1 at the least noise to `threshold` at the most."""


class EmaConfig(Config):
    """Exponential moving average of the trained weights; what is exported is the average."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    warmup: bool = True
    """Start with a short average: decay = min(decay, (1 + step) / (10 + step))."""


class ValidationConfig(Config):
    """Pictures generated while training, always from the same noise."""

    every_steps: PositiveInt = 100
    prompts: Annotated[tuple[str, ...], Field(min_length=1, max_length=32)]
    seed: Annotated[int, Field(ge=0)] = 0


class WandbConfig(Config):
    """Weights & Biases; the key comes from `wandb login` or WANDB_API_KEY, never from a configuration."""

    project: str
    entity: str | None = None


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
    processes: PositiveInt = 1
    """Above 1, the trainer starts through `accelerate launch`."""

    @field_validator("objective", "adapter", "weighting", mode="before")
    @classmethod
    def _kind_has_a_default(cls, section: Any, info: ValidationInfo) -> Any:
        """A section that does not say its kind is of the default one."""
        default = cls.model_fields[info.field_name or ""].default
        return {"kind": default.kind, **section} if isinstance(section, dict) and "kind" not in section else section

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
    "wandb",
}
"""Settings of training that change no byte of what it makes."""
