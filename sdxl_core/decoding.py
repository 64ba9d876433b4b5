"""Latents into pixels, few at a time: the decoder needs more memory than anything else in drawing."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from sdxl_core.config import SamplingConfig
from sdxl_core.encoding import filled_up
from sdxl_core.errors import UserError
from sdxl_core.runtime import unless_out_of_memory
from sdxl_core.vae_settings import scaling_factor

# B pictures, C latent channels, H W latent size; pixels are HWC

Pixels = NDArray[np.uint8]


class Decoder:
    """Every pass has as many rows, filled up where fewer are left, so that no picture depends on its company."""

    def __init__(self, vae: AutoencoderKL, sampling: SamplingConfig) -> None:
        """Raises UserError for a VAE whose latents are scaled otherwise than by a factor."""
        self.vae = vae
        self.scaling_factor = scaling_factor(vae.config, "model.vae")
        self.rows = sampling.decode_batch_size
        if sampling.decode_tile_px is not None:
            use_tiles(vae, sampling.decode_tile_px)

    @torch.no_grad()
    def __call__(self, latents_BCHW: Tensor) -> list[Pixels]:
        """Scaled latents, of any number format, on the VAE's device -> one picture each.

        Raises:
            UserError: memory does not suffice for one picture.
        """
        pictures: list[Pixels] = []
        while len(pictures) < len(latents_BCHW):
            some = latents_BCHW[len(pictures) : len(pictures) + self.rows]
            found = unless_out_of_memory(lambda some=some: self._decode(some))  # type: ignore[misc]
            if found is None:
                self._with_fewer_rows()
            else:
                pictures += found
        return pictures

    def _decode(self, latents_BCHW: Tensor) -> list[Pixels]:
        unscaled_BCHW = filled_up(latents_BCHW, self.rows).to(self.vae.dtype) / self.scaling_factor
        decoded_BCHW = self.vae.decode(unscaled_BCHW, return_dict=False)[0][: len(latents_BCHW)].float()
        bytes_BHWC = ((decoded_BCHW * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return list(bytes_BHWC.cpu().numpy())

    def _with_fewer_rows(self) -> None:
        if self.rows == 1:
            raise UserError(
                "sampling: memory does not suffice to decode one picture; set sampling.decode_tile_px=512, or a "
                "smaller one, which decodes it in pieces"
            )
        self.rows //= 2


def use_tiles(vae: AutoencoderKL, side_px: int) -> None:
    """Decode in overlapping tiles. diffusers takes the VAE's `sample_size` for their side, which is SDXL's own 1024."""
    vae.enable_tiling()
    vae.tile_sample_min_size = side_px
    vae.tile_latent_min_size = side_px // 2 ** (len(vae.config.block_out_channels) - 1)
