"""The forward process of denoising diffusion, from the base model's own scheduler configuration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# B batch, C latent channels, H W latent size


@dataclass(frozen=True)
class NoiseSchedule:
    """Ho et al. 2020 (arXiv:2006.11239): x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""

    alphas_cumprod_T: Tensor
    """abar_t, float32."""
    prediction_type: str
    """`epsilon`, or `v_prediction` (Salimans & Ho 2022, arXiv:2202.00512)."""

    @property
    def timesteps(self) -> int:
        return len(self.alphas_cumprod_T)

    def to(self, device: torch.device) -> NoiseSchedule:
        return NoiseSchedule(self.alphas_cumprod_T.to(device), self.prediction_type)

    def add_noise(self, x_BCHW: Tensor, eps_BCHW: Tensor, t_B: Tensor) -> Tensor:
        signal_B, noise_B = self._mix(t_B)
        return signal_B * x_BCHW + noise_B * eps_BCHW

    def target(self, x_BCHW: Tensor, eps_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What the network is to predict: eps, or v = sqrt(abar) eps - sqrt(1 - abar) x_0."""
        if self.prediction_type == "epsilon":
            return eps_BCHW
        signal_B, noise_B = self._mix(t_B)
        return signal_B * eps_BCHW - noise_B * x_BCHW

    def picture(self, noisy_BCHW: Tensor, predicted_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """x_0 as a prediction for noised latents tells it: `target` and `add_noise` solved for it."""
        signal_B, noise_B = self._mix(t_B)
        if self.prediction_type == "epsilon":
            return (noisy_BCHW - noise_B * predicted_BCHW) / signal_B
        return signal_B * noisy_BCHW - noise_B * predicted_BCHW

    def snr(self, t_B: Tensor) -> Tensor:
        """Signal-to-noise ratio abar / (1 - abar)."""
        abar_B = self.alphas_cumprod_T[t_B]
        return abar_B / (1 - abar_B)

    def _mix(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        abar_B111 = self.alphas_cumprod_T[t_B].view(-1, 1, 1, 1)
        return abar_B111.sqrt(), (1 - abar_B111).sqrt()
