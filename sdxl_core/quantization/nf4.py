"""4-bit NormalFloat (Dettmers et al. 2023, arXiv:2305.14314, section 3 and appendix E)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# N blocks, B weights of a block

BLOCK = 64
CODE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Numbers that equal shares of a normal distribution fall to, scaled to [-1, 1] with zero among them."""


class Nf4:
    """Each weight the nearest of sixteen numbers times its block's largest weight; two weights in a byte."""

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        flat = weight_OI.float().flatten()
        blocks_NB = functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
        scale_N1 = blocks_NB.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
        code = torch.tensor(CODE, device=flat.device)
        between = (code[1:] + code[:-1]) / 2
        index_NB = torch.bucketize(blocks_NB / scale_N1, between).to(torch.uint8)
        pairs = index_NB.view(-1, 2)
        return {"kept": (pairs[:, 0] << 4) | pairs[:, 1], "scale_N1": scale_N1, "code": code}

    def dequantize(self, kept: dict[str, Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        packed = kept["kept"]
        index = torch.stack([packed >> 4, packed & 15], dim=-1).flatten()
        blocks_NB = kept["code"].index_select(0, index.int()).view(-1, BLOCK) * kept["scale_N1"]
        return blocks_NB.flatten()[: shape.numel()].view(shape).to(dtype)
