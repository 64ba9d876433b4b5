"""Schedule-free AdamW, by its authors' schedulefree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sdxl_core.optimizers.base import Group, OptimizerKind
from sdxl_core.training_config import ScheduleFreeConfig


class ScheduleFree(OptimizerKind):
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682). In training the parameters are y, where gradients
    are taken; z is the optimizer's state; what is to be used is x = (y - (1 - beta1) z) / beta1, the average of z."""

    library = "schedulefree"
    progress = ("k", "weight_sum", "lr_max", "scheduled_lr")
    averages = True
    config: ScheduleFreeConfig

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        from schedulefree import AdamWScheduleFree

        config = self.config
        optimizer: Any = AdamWScheduleFree(
            list(groups),  # with rates that warm up; its own warm-up stays off
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            r=config.average_power,
            weight_lr_power=config.rate_power,
        )
        optimizer.train()
        built: torch.optim.Optimizer = optimizer
        return built

    def state_bytes(self, parameter: nn.Parameter) -> int:
        return 8 * parameter.numel()

    @contextmanager
    def averaged(self, optimizer: Any) -> Iterator[None]:
        """x instead of y. y is put back from a copy: computed from x and z it would differ in its last bits."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        live = [p.detach().clone() for p in parameters]
        optimizer.eval()
        try:
            yield
        finally:
            optimizer.train()
            with torch.no_grad():
                for parameter, value in zip(parameters, live, strict=True):
                    parameter.copy_(value)
