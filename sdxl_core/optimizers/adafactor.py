"""Adafactor, by transformers: torch's own always scales the rate by the size of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sdxl_core.optimizers.base import Group, OptimizerKind
from sdxl_core.training_config import AdafactorConfig


class Adafactor(OptimizerKind):
    """Adafactor (Shazeer & Stern 2018, arXiv:1804.04235, algorithm 4) at a given rate: of a tensor's second moment, the
    means over its last two dimensions alone are kept."""

    library = "transformers"
    config: AdafactorConfig

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        from transformers.optimization import Adafactor as Theirs

        config = self.config
        optimizer: torch.optim.Optimizer = Theirs(
            list(groups),
            eps=(config.epsilon, 1e-3),  # the second is of scale_parameter
            clip_threshold=config.clip_threshold,
            decay_rate=-config.decay_exponent,
            scale_parameter=False,
            relative_step=False,
        )
        return optimizer

    def state_bytes(self, parameter: nn.Parameter) -> int:
        weights = parameter.numel()
        if parameter.ndim < 2 or weights == 0:
            return 4 * weights
        return 4 * (weights // parameter.shape[-1] + weights // parameter.shape[-2])
