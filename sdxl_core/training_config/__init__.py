"""Typed, closed configuration of training. Importing this imports no torch."""

from sdxl_core.training_config.adapters import Adapter, FullConfig, LoraConfig, LoraTargets, NoAdapterConfig
from sdxl_core.training_config.averaging import EmaConfig
from sdxl_core.training_config.noise import LossConfig, NoiseConfig, ScheduleConfig, TimestepConfig
from sdxl_core.training_config.objectives import (
    DiffusionObjective,
    Objective,
    PriorPredictionObjective,
    PriorPreservationObjective,
)
from sdxl_core.training_config.saving_memory import Attention, QuantizationConfig
from sdxl_core.training_config.text import NewToken, TextEncodersConfig
from sdxl_core.training_config.training import CANNOT_CHANGE_RESULT, TrainingConfig
from sdxl_core.training_config.watching import ValidationConfig, WandbConfig
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
    "Attention",
    "DebiasedWeighting",
    "DiffusionObjective",
    "EmaConfig",
    "FullConfig",
    "LoraConfig",
    "LoraTargets",
    "LossConfig",
    "MinSnrWeighting",
    "NewToken",
    "NoAdapterConfig",
    "NoiseConfig",
    "Objective",
    "P2Weighting",
    "PriorPredictionObjective",
    "PriorPreservationObjective",
    "QuantizationConfig",
    "ScheduleConfig",
    "SoftMinSnrWeighting",
    "TextEncodersConfig",
    "TimestepConfig",
    "TrainingConfig",
    "UniformWeighting",
    "ValidationConfig",
    "WandbConfig",
    "Weighting",
]
