"""How much each timestep counts."""

from __future__ import annotations

import torch
from torch import Tensor


def timestep_weight(snr_B: Tensor, prediction_type: str, min_snr_gamma: float | None) -> Tensor:
    """Weight of every row's squared error; ones when `min_snr_gamma` is unset.

    Min-SNR (Hang et al. 2023, arXiv:2303.09556, section 3.4): min(SNR, gamma) / SNR for epsilon prediction, and
    min(SNR, gamma) / (SNR + 1) for v prediction.
    """
    if min_snr_gamma is None:
        return torch.ones_like(snr_B)
    clipped_B = snr_B.clamp(max=min_snr_gamma)
    return clipped_B / (snr_B if prediction_type == "epsilon" else snr_B + 1)
