"""AdamW with moments in 8 bits, by bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sdxl_core.optimizers.base import Group, OptimizerKind
from sdxl_core.training_config import AdamW8bitConfig

SMALLEST_QUANTISED, BLOCK, MAP_BYTES = 4096, 256, 4 * 256


class AdamW8bit(OptimizerKind):
    """8-bit AdamW (Dettmers et al. 2022, arXiv:2110.02861). Tensors of fewer than 4096 weights keep float32 moments."""

    library = "bitsandbytes"
    config: AdamW8bitConfig

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        from bitsandbytes.optim import AdamW8bit as Theirs  # an extra: only if it is asked for

        config = self.config
        optimizer: torch.optim.Optimizer = Theirs(
            list(groups),
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            min_8bit_size=SMALLEST_QUANTISED,
        )
        return optimizer

    def state_bytes(self, parameter: nn.Parameter) -> int:
        """Two moments: a byte a weight, a scale (float32) every 256, and a table of the 256 values."""
        weights = parameter.numel()
        if weights < SMALLEST_QUANTISED:
            return 8 * weights
        return 2 * (weights + 4 * -(-weights // BLOCK) + MAP_BYTES)
