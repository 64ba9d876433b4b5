"""What is shown of a training while it goes on: `training.validation`, `training.wandb`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sdxl_core.config import Config, PositiveInt


class ValidationConfig(Config):
    """Pictures generated while training, always from the same noise."""

    every_steps: PositiveInt = 100
    prompts: Annotated[tuple[str, ...], Field(min_length=1, max_length=32)]
    seed: Annotated[int, Field(ge=0)] = 0


class WandbConfig(Config):
    """Weights & Biases; the key comes from `wandb login` or WANDB_API_KEY, never from a configuration."""

    project: str
    entity: str | None = None
