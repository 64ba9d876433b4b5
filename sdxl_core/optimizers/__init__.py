"""Optimizers. To add one: a file here, a line below, its class in `sdxl_core.training_config.optimizers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sdxl_core.learning_rate import base_rate
from sdxl_core.optimizers.adafactor import Adafactor
from sdxl_core.optimizers.adamw import AdamW
from sdxl_core.optimizers.adamw_8bit import AdamW8bit
from sdxl_core.optimizers.base import Group, OptimizerKind
from sdxl_core.optimizers.lion import Lion
from sdxl_core.optimizers.prodigy import Prodigy
from sdxl_core.optimizers.rounding import RoundingOptimizer
from sdxl_core.optimizers.schedule_free import ScheduleFree
from sdxl_core.parts import PARTS, part_of
from sdxl_core.training_config import TrainingConfig

OPTIMIZERS: dict[str, type[OptimizerKind]] = {
    "adamw": AdamW,
    "adamw_8bit": AdamW8bit,
    "adafactor": Adafactor,
    "prodigy": Prodigy,
    "lion": Lion,
    "schedule_free": ScheduleFree,
}


def optimizer_kind(config: TrainingConfig) -> OptimizerKind:
    return OPTIMIZERS[config.optimizer.kind](config.optimizer)


def build_optimizer(
    config: TrainingConfig, trainable: Mapping[str, nn.Parameter], rows_per_step: int = 1
) -> torch.optim.Optimizer:
    """The configured optimizer of parameters by name, in one group for each part that is trained (`group["part"]`)."""
    kind = optimizer_kind(config)
    groups = _groups(config, trainable, rows_per_step)
    if config.trained_weights == "bf16":
        return RoundingOptimizer(kind.build, groups, config.seed)
    return kind.build(groups)


def with_progress(kind: OptimizerKind, settings: Sequence[Group], saved: Sequence[Group]) -> list[dict[str, Any]]:
    """Groups with the settings that are configured and the progress that was saved.

    Raises:
        ValueError: there are not as many groups.
    """
    pairs = zip(settings, saved, strict=True)
    return [{**ours, **{name: was[name] for name in kind.progress if name in was}} for ours, was in pairs]


def _groups(config: TrainingConfig, trainable: Mapping[str, nn.Parameter], rows_per_step: int) -> list[Group]:
    members = {part: [p for name, p in trainable.items() if part_of(name) == part] for part in PARTS}
    trained = [part for part in PARTS if members[part]]
    decay = config.optimizer.weight_decay
    return [
        {
            "params": members[part],
            "part": part,
            "lr": base_rate(config, part, rows_per_step),
            # a learned token is a place among fixed ones; zero is no better place
            "weight_decay": 0.0 if part == "tokens" else decay,
        }
        for part in trained
    ]


__all__ = ["OPTIMIZERS", "OptimizerKind", "build_optimizer", "optimizer_kind", "with_progress"]
