"""`retraining`: which model a scheduled training is a candidate for, and what it has to show to replace it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from eval.gate_config import GateConfig
from sdxl_core.config import Config


class RetrainingConfig(Config):
    """Used by `retrain` only."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] | None = None
    """Which model of the store's `models` folder it is a candidate for. Default: `name`."""
    warm_start: bool = False
    """Begin with the weights in production instead of anew. The first training of a model begins anew."""
    against_incumbent: tuple[GateConfig, ...] | None = None
    """What the candidate has to show against what is in production. Default: `evaluation.gates`."""
    hub: str | None = None
    """Repository on the Hugging Face hub, `user/name`, to which what is promoted is uploaded; its tag `production` is
    moved there."""
    private: bool = True
    """Whether that repository is made a private one, where it is not there yet."""
