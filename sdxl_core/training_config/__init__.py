"""Typed, closed configuration of training. Importing this imports no torch."""

from sdxl_core.training_config.adapters import Adapter, FullConfig, LoraConfig, LoraTargets
from sdxl_core.training_config.averaging import EmaConfig
from sdxl_core.training_config.noise import LossConfig, NoiseConfig, TimestepConfig
from sdxl_core.training_config.objectives import DiffusionObjective, Objective, PriorPreservationObjective
from sdxl_core.training_config.training import CANNOT_CHANGE_RESULT, TrainingConfig
from sdxl_core.training_config.watching import ValidationConfig, ValidationLossConfig, WandbConfig
from sdxl_core.training_config.weightings import (
    DebiasedWeighting,
    MinSnrWeighting,
    P2Weighting,
    SoftMinSnrWeighting,
    UniformWeighting,
    Weighting,
)

__all__ = [
    "CANNOT_CHANGE_RESULT",
    "Adapter",
    "DebiasedWeighting",
    "DiffusionObjective",
    "EmaConfig",
    "FullConfig",
    "LoraConfig",
    "LoraTargets",
    "LossConfig",
    "MinSnrWeighting",
    "NoiseConfig",
    "Objective",
    "P2Weighting",
    "PriorPreservationObjective",
    "SoftMinSnrWeighting",
    "TimestepConfig",
    "TrainingConfig",
    "UniformWeighting",
    "ValidationConfig",
    "ValidationLossConfig",
    "WandbConfig",
    "Weighting",
]
