"""What is measured and shown of a training while it goes on: `training.validation`, `training.wandb`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdxl_core.config import Config, PositiveInt
from sdxl_core.training_config.in_vain import refuse_in_vain

_TAKEN = re.compile(r"loss|pictures|validation_loss|implicit_accuracy|margin|t\d+")
"""Names that stand beside scores: figures of the validation loss, and the pictures."""


class ValidationLossConfig(Config):
    """The loss on pictures that are never trained on, always at the same timesteps and with the same noise.

    Which pictures: `share` or `pictures` of the dataset, or those of `dataset.validation_path`.
    """

    every_steps: PositiveInt = 100
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """About this share of the dataset is held out. Each picture's own digest decides, whatever else is there."""
    pictures: PositiveInt | None = None
    """So many different pictures of the dataset are held out; one that is trained on never becomes one of them."""
    timesteps: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=64)] | None = None
    """Default: eight, spread evenly over those that are trained."""
    draws: PositiveInt = 1
    """Noises per picture and timestep."""
    weighted: bool = False
    """Weigh timesteps as `training.weighting` does; of pairs, always."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the noise."""

    @model_validator(mode="after")
    def _well_defined(self) -> ValidationLossConfig:
        if self.share is not None and self.pictures is not None:
            raise ValueError("share and pictures both say how many pictures are held out; expected one of them")
        if self.timesteps is not None and len(set(self.timesteps)) < len(self.timesteps):
            raise ValueError(f"expected each timestep once, got {list(self.timesteps)}")
        return self

    @property
    def splits_dataset(self) -> bool:
        """Whether the pictures are taken from the dataset itself."""
        return self.share is not None or self.pictures is not None


class ValidationConfig(Config):
    """Pictures generated while training, always from the same noise; their scores; the loss on held-out pictures."""

    every_steps: PositiveInt = 100
    """Of the generated pictures and their scores."""
    prompts: Annotated[tuple[str, ...], Field(max_length=32)] = ()
    pictures_per_prompt: Annotated[int, Field(ge=1, le=16)] = 1
    """Each from noise of its own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the generated pictures."""
    scores: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """Metrics of `evaluation.metrics`, by name, that are measured on the generated pictures; before the first step
    too."""
    scores_device: Literal["same", "cpu"] = "same"
    """Where the metrics' networks compute. same: on the training's device, where they are loaded each time."""
    loss: ValidationLossConfig | None = None

    @model_validator(mode="after")
    def _validates_something(self) -> ValidationConfig:
        if not self.prompts and self.loss is None:
            raise ValueError("expected `prompts` to draw, or a section `loss`, or both; got neither")
        if not self.prompts:
            refuse_in_vain(self, "pictures_per_prompt", "scores", needs="prompts")
        if not self.scores:
            refuse_in_vain(self, "scores_device", needs="scores")
        return self

    @model_validator(mode="after")
    def _scores_have_names_of_their_own(self) -> ValidationConfig:
        if len(set(self.scores)) < len(self.scores):
            raise ValueError(f"scores: expected each metric once, got {', '.join(self.scores)}")
        for name in self.scores:
            if _TAKEN.fullmatch(name):
                raise ValueError(f"scores: validation/{name} is another figure; give the metric another `name`")
        return self


class WandbConfig(Config):
    """Weights & Biases; the key comes from `wandb login` or WANDB_API_KEY, never from a configuration."""

    project: str
    entity: str | None = None
