"""The methods, `training.objective`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdxl_core.config import Config
from sdxl_core.training_config.numbers import NotNegative


class DiffusionObjective(Config):
    """Predict the noise (Ho et al. 2020, L_simple)."""

    kind: Literal["diffusion"] = "diffusion"


class PriorPreservationObjective(Config):
    """DreamBooth: the instance pictures' loss plus `prior_weight` times the class images' (needs section `prior`)."""

    kind: Literal["prior_preservation"]
    prior_weight: NotNegative = 1.0


Objective = Annotated[DiffusionObjective | PriorPreservationObjective, Field(discriminator="kind")]
