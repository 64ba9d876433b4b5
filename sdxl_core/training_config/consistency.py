"""Losses on the picture that a prediction stands for, `training.consistency`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdxl_core.config import Config, PositiveInt
from sdxl_core.training_config.numbers import Positive


class IdentityLossConfig(Config):
    """At low noise, pull the face in the predicted picture toward the person's, as a face recogniser sees it.

    Adds weight (1 - cosine) to the loss of every instance row below `max_timestep` whose picture shows a face.
    """

    face_model: Annotated[str, Field(min_length=1)]
    """The recogniser of an insightface pack (`./buffalo_l/w600k_r50.onnx`), or the pack's folder; needs the extra
    `faces`. Packs are licensed for non-commercial research only."""
    weight: Positive = 0.1
    max_timestep: PositiveInt = 250
    """Only rows with less noise than this, where the predicted picture is sharp enough to know a face by."""
    reference: Literal["mean", "picture"] = "mean"
    """mean: of all the pictures of the row's concept; picture: of the row's own picture alone."""


class ConsistencyConfig(Config):
    """All off by default."""

    identity_loss: IdentityLossConfig | None = None
