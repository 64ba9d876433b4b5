"""What one forward pass is trained on."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

# B rows, C latent channels, H W latent size, T text tokens, E text width, P pooled width


@dataclass(frozen=True)
class Conditioning:
    """SDXL's text and micro-conditioning (Podell et al. 2023, section 2.2)."""

    text_BTE: Tensor
    pooled_BP: Tensor
    time_ids_B6: Tensor
    """float32: original height and width, crop top and left, target height and width, in pixels."""


@dataclass(frozen=True)
class Batch:
    """Latents with everything drawn for them; the draws are part of the batch, so an objective is a pure function."""

    x_BCHW: Tensor
    """Scaled latents."""
    conditioning: Conditioning
    eps_BCHW: Tensor
    """The noise that the target tells of."""
    input_eps_BCHW: Tensor
    """The noise that the input gets; the same, unless the input is perturbed."""
    t_B: Tensor
    weight_B: Tensor | None = None
    """How much each row counts; None: all alike."""
    mask_B1HW: Tensor | None = None
    """Where each row counts, in [0, 1]; None: everywhere."""

    def to(self, device: torch.device) -> Batch:
        condition = Conditioning(*(getattr(self.conditioning, f.name).to(device) for f in fields(Conditioning)))
        eps_BCHW, input_eps_BCHW = self.eps_BCHW.to(device), self.input_eps_BCHW.to(device)
        weight_B, mask_B1HW = (None if part is None else part.to(device) for part in (self.weight_B, self.mask_B1HW))
        return Batch(
            self.x_BCHW.to(device), condition, eps_BCHW, input_eps_BCHW, self.t_B.to(device), weight_B, mask_B1HW
        )
