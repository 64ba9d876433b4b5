"""How much each timestep counts.

Every weighting is written as the weight of the error in x_0; an error d in x_0 is an error d sqrt(SNR) in the noise and
d sqrt(SNR + 1) in the velocity. So each means the same loss in both parameterisations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdxl_core.training_config import DebiasedWeighting, MinSnrWeighting, P2Weighting, SoftMinSnrWeighting, Weighting


def min_snr(snr_B: Tensor, config: MinSnrWeighting) -> Tensor:
    """Hang et al. 2023, arXiv:2303.09556: min(SNR, gamma) of the error in x_0."""
    return snr_B.clamp(max=config.gamma)


def soft_min_snr(snr_B: Tensor, config: SoftMinSnrWeighting) -> Tensor:
    """Crowson et al. 2024, arXiv:2401.11605: SNR gamma / (SNR + gamma) of the error in x_0."""
    return snr_B * config.gamma / (snr_B + config.gamma)


def debiased(snr_B: Tensor, config: DebiasedWeighting) -> Tensor:
    """Yu et al. 2023, arXiv:2310.08442: 1 / sqrt(SNR) of the noise's error."""
    return snr_B / snr_B.clamp(max=config.largest_snr).sqrt().clamp(min=torch.finfo(snr_B.dtype).tiny)


def p2(snr_B: Tensor, config: P2Weighting) -> Tensor:
    """Choi et al. 2022, arXiv:2204.00227: (k + SNR) ** -gamma of the noise's error."""
    return snr_B / (config.k + snr_B) ** config.gamma


WEIGHTINGS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "min_snr": min_snr,
    "soft_min_snr": soft_min_snr,
    "debiased": debiased,
    "p2": p2,
}
"""To add one: a function here, a line here, a configuration class in `sdxl_core.training_config`."""


def timestep_weight(snr_B: Tensor, prediction_type: str, config: Weighting) -> Tensor:
    """Weight of every row's error in what the network predicts; ones for `uniform`."""
    if config.kind == "uniform":
        return torch.ones_like(snr_B)
    return WEIGHTINGS[config.kind](snr_B, config) / (snr_B if prediction_type == "epsilon" else snr_B + 1)
