"""AdamW, by torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sdxl_core.optimizers.base import Group, OptimizerKind
from sdxl_core.training_config import AdamWConfig


class AdamW(OptimizerKind):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), one fused kernel for all parameters."""

    config: AdamWConfig

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(list(groups), betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True)

    def state_bytes(self, parameter: nn.Parameter) -> int:
        return 8 * parameter.numel()
