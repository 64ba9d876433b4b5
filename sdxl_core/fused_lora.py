"""A linear layer with a LoRA as one operation, forward and backward (`training.fused_lora`).

    y = x W' + b + s (x A') B'

autograd would take it apart into eleven operations forward and more backward, four of them over tensors of y's size
for a sum and a scaling. Here the thin product is added in place by the matrix product itself, the scale goes to the
thin side, and only x and s x A' are kept. The gradients, with h = s x A' and k = s g B:

    dx = g W + k A        dA = k' x        dB = g' h
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn

from sdxl_core.peft_layers import ADAPTER_NAME, adapted_layers

# N rows of all leading dimensions, O outputs, I inputs, R rank


class LoraProduct(torch.autograd.Function):
    """The layer's output; `W` and `b` do not learn. All tensors are of one number format."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_OI: Tensor, b_O: Tensor | None, A_RI: Tensor, B_OR: Tensor, scale: float
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        h_NR = _scaled(torch.mm(x_NI, A_RI.t()), scale)
        y_NO = torch.mm(x_NI, W_OI.t()) if b_O is None else torch.addmm(b_O, x_NI, W_OI.t())
        y_NO.addmm_(h_NR, B_OR.t())
        ctx.save_for_backward(x_NI, h_NR, W_OI, A_RI, B_OR)
        ctx.scale, ctx.shape = scale, x.shape
        return y_NO.view(*x.shape[:-1], len(W_OI))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x_NI, h_NR, W_OI, A_RI, B_OR = ctx.saved_tensors
        g_NO = g.reshape(-1, len(W_OI))
        k_NR = _scaled(torch.mm(g_NO, B_OR), ctx.scale)
        dA_RI, dB_OR = torch.mm(k_NR.t(), x_NI), torch.mm(g_NO.t(), h_NR)
        if not ctx.needs_input_grad[0]:
            return None, None, None, dA_RI, dB_OR, None
        dx_NI = torch.mm(g_NO, W_OI).addmm_(k_NR, A_RI)
        return dx_NI.view(ctx.shape), None, None, dA_RI, dB_OR, None


def _scaled(thin: Tensor, scale: float) -> Tensor:
    """In place, as it was just made."""
    return thin if scale == 1 else thin.mul_(scale)


class FusedLinear(Linear):  # type: ignore[misc]
    """peft's layer, parameters and names, computed by `LoraProduct`; without the adapter, the base layer's own."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        base = self.base_layer
        dtype = _product_dtype(x, base.weight)
        A_RI, B_OR = self.lora_A[ADAPTER_NAME].weight.to(dtype), self.lora_B[ADAPTER_NAME].weight.to(dtype)
        b_O = None if base.bias is None else base.bias.to(dtype)
        scale: float = self.scaling[ADAPTER_NAME]
        product: Tensor = LoraProduct.apply(x.to(dtype), base.weight.to(dtype), b_O, A_RI, B_OR, scale)
        return product


def fuse_lora(network: nn.Module) -> str | None:
    """Have a network's LoRA layers computed so; returns which are left to peft, and why."""
    left: Counter[str] = Counter()
    layers = [layer for layer in adapted_layers(network).values() if isinstance(layer, LoraLayer)]
    for layer in layers:
        if reason := _why_not(layer):
            left[reason] += 1
        else:
            layer.__class__ = FusedLinear
    if not left:
        return None
    reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(left.items()))
    return f"training.fused_lora: {left.total()} of {len(layers)} LoRA layers are computed by peft instead: {reasons}"


def _why_not(layer: LoraLayer) -> str | None:
    if type(layer) is not Linear:
        return "convolution" if isinstance(layer.get_base_layer(), nn.Conv2d) else type(layer).__name__
    if type(layer.base_layer) is not nn.Linear:
        return "base in fewer bits"
    if layer.lora_variant:
        return "DoRA, PiSSA or OLoRA"
    return None if isinstance(layer.lora_dropout[ADAPTER_NAME], nn.Identity) else "dropout"


def _product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """As autocast has it; without, the frozen weights'."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):  # meta tensors have no autocast
        return torch.get_autocast_dtype(kind)
    return weight.dtype
