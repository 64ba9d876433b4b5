"""The training objectives. To add one: a file here, a line below, its class in `sdxl_core.training_config`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdxl_core.objectives.base import LossOutput, Objective, Rows
from sdxl_core.objectives.diffusion import Diffusion
from sdxl_core.objectives.prior_prediction import PriorPrediction
from sdxl_core.objectives.prior_preservation import PriorPreservation

OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "diffusion": Diffusion,
    "prior_preservation": PriorPreservation,
    "prior_prediction": PriorPrediction,
}

__all__ = ["OBJECTIVES", "LossOutput", "Objective", "Rows"]
