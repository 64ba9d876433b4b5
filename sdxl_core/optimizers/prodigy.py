"""Prodigy, by its authors' prodigyopt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from sdxl_core.optimizers.base import Group, OptimizerKind
from sdxl_core.training_config import ProdigyConfig


class Prodigy(OptimizerKind):
    """Prodigy (Mishchenko & Defazio 2023, arXiv:2306.06101): the step is d times Adam's, d being an estimate of the
    distance to the solution, one for all parts."""

    library = "prodigyopt"
    progress = ("d", "d_max", "d_numerator", "d_denom", "d_hat", "k")
    config: ProdigyConfig

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        from prodigyopt import Prodigy as Theirs

        config = self.config
        optimizer: torch.optim.Optimizer = Theirs(
            list(groups),  # weight_decay stands in them: given as the default, it would print a note to our events
            betas=(config.beta1, config.beta2),
            beta3=config.beta3,
            eps=config.epsilon,
            d0=config.d0,
            d_coef=config.d_coef,
            growth_rate=math.inf if config.growth_rate is None else config.growth_rate,
            use_bias_correction=config.bias_correction,
            safeguard_warmup=config.safeguard_warmup,
            slice_p=config.slice_every,
        )
        return optimizer

    def state_bytes(self, parameter: nn.Parameter) -> int:
        """Two moments, and where it began and the sum of its gradients, both sliced."""
        weights = parameter.numel()
        moments = 2 if self.config.beta1 > 0 else 1
        return 4 * (moments * weights + 2 * -(-weights // self.config.slice_every))

    def figures(self, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """The estimate, by which `learning_rate` is multiplied."""
        return {"prodigy_d": optimizer.param_groups[0]["d"]}
