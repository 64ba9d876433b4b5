"""Noise and timesteps of a row: functions of what they are for, as all draws are."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from sdxl_core import randomness
from sdxl_core.training_config import NoiseConfig, TimestepConfig

# C latent channels, H W latent size


def draw_noise(shape: tuple[int, int, int], config: NoiseConfig, *draw: str | int) -> tuple[Tensor, Tensor]:
    """(the noise that the target tells of, the noise that the input gets), both C x H x W."""
    eps_CHW = randomness.normal(shape, "noise", *draw)
    if config.multires_levels:
        eps_CHW = _multires(eps_CHW, config, *draw)
    if config.offset:
        eps_CHW = eps_CHW + config.offset * randomness.normal((shape[0], 1, 1), "offset", *draw)
    if not config.perturbation:
        return eps_CHW, eps_CHW
    return eps_CHW, eps_CHW + config.perturbation * randomness.normal(shape, "perturbation", *draw)


def _multires(eps_CHW: Tensor, config: NoiseConfig, *draw: str | int) -> Tensor:
    """Each level has a resolution two to four times coarser than the one before and `multires_discount` its weight."""
    channels, height, width = eps_CHW.shape
    total_CHW = eps_CHW
    for level in range(1, config.multires_levels + 1):
        factor = (2 + 2 * randomness.uniform("multires-factor", level, *draw)) ** level
        coarse = (max(1, int(height / factor)), max(1, int(width / factor)))
        noise_CHW = randomness.normal((channels, *coarse), "multires", level, *draw)
        fine_CHW = functional.interpolate(noise_CHW[None], (height, width), mode="bilinear", align_corners=False)[0]
        total_CHW = total_CHW + config.multires_discount**level * fine_CHW
        if coarse == (1, 1):
            break
    return total_CHW / total_CHW.std()


def draw_timestep(config: TimestepConfig, timesteps: int, *draw: str | int) -> int:
    """A timestep in [low, high)."""
    low, high = config.low, min(config.high or timesteps, timesteps)
    if config.distribution == "uniform":
        return low + randomness.integer(high - low, "timestep", *draw)
    if config.distribution == "cubic":
        place = 1 - randomness.uniform("timestep", *draw) ** 3
    else:
        normal = float(randomness.normal((1,), "timestep", *draw))
        place = 1 / (1 + math.exp(-(config.mean + config.deviation * normal)))
    return low + min(int(place * (high - low)), high - low - 1)
