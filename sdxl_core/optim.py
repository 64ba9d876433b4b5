"""The optimizer and its learning rate, a pure function of the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from sdxl_core.training_config import TrainingConfig


def build_optimizer(config: TrainingConfig, trainable: Sequence[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), one fused kernel for all parameters."""
    return torch.optim.AdamW(
        trainable,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def state_bytes(trainable: Sequence[nn.Parameter]) -> int:
    """What the optimizer keeps of these parameters: AdamW's two moments, each as large as they are."""
    return 2 * sum(parameter.nbytes for parameter in trainable)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Rate of optimizer step `step` (counted from 0): warm-up from zero, then the schedule to the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    return config.learning_rate * LR_SHAPES[config.lr_schedule](min(1.0, done))


def _constant(done: float) -> float:
    return 1.0


def _linear(done: float) -> float:
    return 1.0 - done


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


LR_SHAPES = {"constant": _constant, "linear": _linear, "cosine": _cosine}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
