"""How a difference between prediction and target counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdxl_core.schedule import NoiseSchedule
from sdxl_core.training_config import LossConfig

# B rows, C latent channels, H W latent size


Threshold = Callable[[], Tensor]
"""B x 1 x 1 x 1, worked out by the losses that have one and by no other."""


def l2(difference_BCHW: Tensor, threshold_B111: Threshold) -> Tensor:
    return difference_BCHW.square()


def l1(difference_BCHW: Tensor, threshold_B111: Threshold) -> Tensor:
    return difference_BCHW.abs()


def huber(difference_BCHW: Tensor, threshold_B111: Threshold) -> Tensor:
    """2 c (sqrt(d^2 + c^2) - c): d^2 for small differences d, 2 c |d| for large.

    Pseudo-Huber, Khrapov et al. 2024, arXiv:2403.16728.
    """
    c_B111 = threshold_B111()
    return 2 * c_B111 * (torch.hypot(difference_BCHW, c_B111) - c_B111)


def smooth_l1(difference_BCHW: Tensor, threshold_B111: Threshold) -> Tensor:
    """2 (sqrt(d^2 + c^2) - c): d^2 / c for small differences d, 2 |d| for large."""
    c_B111 = threshold_B111()
    return 2 * (torch.hypot(difference_BCHW, c_B111) - c_B111)


LOSSES: dict[str, Callable[[Tensor, Threshold], Tensor]] = {"l2": l2, "l1": l1, "huber": huber, "smooth_l1": smooth_l1}


def row_error(
    difference_BCHW: Tensor,
    t_B: Tensor,
    schedule: NoiseSchedule,
    config: LossConfig,
    weight_B1HW: Tensor | None = None,
) -> Tensor:
    """Mean over C, H, W of the loss of every row, each place weighted if there are weights."""

    def threshold_B111() -> Tensor:
        return threshold(t_B, schedule, config).view(-1, 1, 1, 1)

    loss_BCHW = LOSSES[config.kind](difference_BCHW, threshold_B111)
    return (loss_BCHW if weight_B1HW is None else loss_BCHW * weight_B1HW).mean(dim=(1, 2, 3))


def threshold(t_B: Tensor, schedule: NoiseSchedule, config: LossConfig) -> Tensor:
    """Where the loss turns from quadratic to linear, c, at each timestep (Khrapov et al. 2024)."""
    if config.schedule == "exponential":
        return config.threshold ** (t_B / schedule.timesteps)
    if config.schedule == "snr":
        sigma_B = schedule.snr(t_B).rsqrt()
        return (1 - config.threshold) / (1 + sigma_B).square() + config.threshold
    return torch.full_like(t_B, config.threshold, dtype=torch.float32)
