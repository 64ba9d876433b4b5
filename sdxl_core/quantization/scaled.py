"""Formats of 8 bits with one scale for each output: the largest weight of a row takes the largest number there is."""

from __future__ import annotations

import torch
from torch import Tensor

# O outputs, I inputs


class Scaled:
    """`weight = kept * scale`, symmetric about zero."""

    kind: torch.dtype
    largest: float

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        rows_OI = weight_OI.float()
        scale_O1 = rows_OI.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / self.largest
        return {"kept_OI": self.narrow(rows_OI / scale_O1), "scale_O1": scale_O1}

    def dequantize(self, kept: dict[str, Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return (kept["kept_OI"].float() * kept["scale_O1"]).to(dtype)

    def narrow(self, x: Tensor) -> Tensor:
        return x.to(self.kind)


class Int8(Scaled):
    """Whole numbers from -127 to 127."""

    kind, largest = torch.int8, 127.0

    def narrow(self, x: Tensor) -> Tensor:
        return x.round().clamp(-127, 127).to(self.kind)


class Fp8(Scaled):
    """Floats of 4 bits exponent and 3 bits fraction; the largest is 448."""

    kind, largest = torch.float8_e4m3fn, 448.0
