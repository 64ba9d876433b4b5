"""Lion, by timm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sdxl_core.optimizers.base import Group, OptimizerKind
from sdxl_core.training_config import LionConfig


class Lion(OptimizerKind):
    """Lion (Chen et al. 2023, arXiv:2302.06675): the sign of an interpolated momentum."""

    library = "timm"
    config: LionConfig

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        from timm.optim import Lion as Theirs  # takes a second to import

        optimizer: torch.optim.Optimizer = Theirs(list(groups), betas=(self.config.beta1, self.config.beta2))
        return optimizer

    def state_bytes(self, parameter: nn.Parameter) -> int:
        return 4 * parameter.numel()
