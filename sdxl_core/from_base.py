"""LoRAs that begin with a part of the base's own weights: PiSSA and OLoRA.

Both papers take that part out of the base: W' = W - s B0 A0, trained as W' + s B A. Here the base stays as it is, and
the adapter adds the same difference in a form that loses nothing in half precision and is exactly 0 at first:

    s (B A - B0 A0)  =  s [B, B - B0] [A - A0; A0]

The right side is an ordinary LoRA of twice the rank, which is what files hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor
from torch.nn import functional

from sdxl_core.model import Kept

# O outputs, I inputs of a layer, R rank


class InitialFactors(Kept):
    """What a layer's adapter began with."""

    def __init__(self, A_RI: Tensor, B_OR: Tensor) -> None:
        super().__init__()
        self.register_buffer("A", A_RI)
        self.register_buffer("B", B_OR)


class Difference(LoraVariant):  # type: ignore[misc]
    """A layer's output with the adapter's difference from what it began with."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        x = module.lora_dropout[active_adapter](x)
        A, B = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        first = module.initial_factors
        moved = functional.linear(functional.linear(x, A - first.A), B)
        moved = moved + functional.linear(functional.linear(x, first.A), B - first.B)
        total: Tensor = result + moved * module.scaling[active_adapter]
        return total


def begin_with_base(layer: LoraLayer, adapter: str, init: str) -> None:
    """Set a linear layer's factors, and have it add their difference from these."""
    weight = layer.get_base_layer().weight.detach().float()
    rank = layer.r[adapter]
    A, B = INITS[init](weight, rank, layer.scaling[adapter])
    layer.lora_A[adapter].weight.data = A.clone()
    layer.lora_B[adapter].weight.data = B.clone()
    layer.initial_factors = InitialFactors(A, B)
    layer.lora_variant[adapter] = Difference()


def doubled(layer: LoraLayer, adapter: str) -> tuple[Tensor, Tensor]:
    """The difference as factors of an ordinary LoRA of twice the rank: (A, B)."""
    A, B, first = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, layer.initial_factors
    return torch.cat([A - first.A, first.A]), torch.cat([B, B - first.B], dim=1)


def _pissa(weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """s B A = the largest `rank` singular components of W (Meng et al. 2024, arXiv:2404.02948, equations 2 to 4).

    W = U S V', from the eigenvectors of the smaller of W W' and W' W: a fifth of the time of decomposing W.
    """
    wide = weight_OI.shape[1] > weight_OI.shape[0]
    squares, vectors = torch.linalg.eigh(weight_OI @ weight_OI.T if wide else weight_OI.T @ weight_OI)
    S = squares[-rank:].flip(0).clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    directions = vectors[:, -rank:].flip(1)  # U of a wide matrix, else V
    U = directions if wide else weight_OI @ directions / S
    V = weight_OI.T @ directions / S if wide else directions
    root = (S / scale).sqrt()
    return (root[:, None] * V.T).contiguous(), (U * root).contiguous()


def _olora(weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """B and A are the first columns and rows of W = Q R (Büyükakyüz 2024, arXiv:2406.01775, algorithm 1)."""
    Q, R = torch.linalg.qr(weight_OI)
    return R[:rank].contiguous(), Q[:, :rank].contiguous()


INITS: dict[str, Callable[[Tensor, int, float], tuple[Tensor, Tensor]]] = {"pissa": _pissa, "olora": _olora}
