"""What is trained, `training.adapter`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdxl_core.config import Config, PositiveInt

LoraTargets = Literal["attention", "attention+feed-forward"]


class LoraConfig(Config):
    """Low-rank adapter (Hu et al. 2021, arXiv:2106.09685)."""

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
    """No adapter: all weights of the networks themselves are trained."""

    kind: Literal["full"]


class NoAdapterConfig(Config):
    """Textual inversion: nothing but `training.new_tokens` is trained (Gal et al. 2022, arXiv:2208.01618)."""

    kind: Literal["none"]


Adapter = Annotated[LoraConfig | FullConfig | NoAdapterConfig, Field(discriminator="kind")]
