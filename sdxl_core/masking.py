"""Masked loss: where in a picture the loss counts (`training.masked_loss`)."""

from __future__ import annotations

import torch
from torch import Tensor

from sdxl_core.training_config import MaskedLossConfig

# B rows, H W latent size


def inside_weight(mask_B1HW: Tensor, config: MaskedLossConfig) -> Tensor:
    """Weight of the difference to the target: mask + (1 - mask) unmasked_weight, over its mean if `normalize`."""
    weight_B1HW = mask_B1HW + (1 - mask_B1HW) * config.unmasked_weight
    return _over_mean(weight_B1HW) if config.normalize else weight_B1HW


def outside_weight(mask_B1HW: Tensor, config: MaskedLossConfig) -> Tensor:
    """Weight of the difference to the base's prediction: (1 - mask) prior_weight, over the mask's rest if `normalize`.

    As OneTrainer's masked prior preservation.
    """
    weight_B1HW = 1 - mask_B1HW
    return config.prior_weight * (_over_mean(weight_B1HW) if config.normalize else weight_B1HW)


def _over_mean(weight_B1HW: Tensor) -> Tensor:
    """Weights whose mean is 1 in every row; a row that weighs nothing at all keeps weighing nothing."""
    mean_B111 = weight_B1HW.mean(dim=(1, 2, 3), keepdim=True)
    return weight_B1HW / torch.where(mean_B111 > 0, mean_B111, 1)
