"""Typed, closed configuration of training. Importing this imports no torch."""

from sdxl_core.training_config.adapters import Adapter, FullConfig, LoraConfig, LoraTargets
from sdxl_core.training_config.averaging import EmaConfig
from sdxl_core.training_config.lr_schedules import LearningRates, LrSchedule
from sdxl_core.training_config.noise import LossConfig, NoiseConfig, TimestepConfig
from sdxl_core.training_config.objectives import DiffusionObjective, Objective, PriorPreservationObjective
from sdxl_core.training_config.optimizers import (
    AdafactorConfig,
    AdamW8bitConfig,
    AdamWConfig,
    LionConfig,
    Optimizer,
    ProdigyConfig,
    ScheduleFreeConfig,
)
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
    "AdafactorConfig",
    "AdamW8bitConfig",
    "AdamWConfig",
    "Adapter",
    "DebiasedWeighting",
    "DiffusionObjective",
    "EmaConfig",
    "FullConfig",
    "LearningRates",
    "LionConfig",
    "LoraConfig",
    "LoraTargets",
    "LossConfig",
    "LrSchedule",
    "MinSnrWeighting",
    "NoiseConfig",
    "Objective",
    "Optimizer",
    "P2Weighting",
    "PriorPreservationObjective",
    "ProdigyConfig",
    "ScheduleFreeConfig",
    "SoftMinSnrWeighting",
    "TimestepConfig",
    "TrainingConfig",
    "UniformWeighting",
    "ValidationConfig",
    "WandbConfig",
    "Weighting",
]
