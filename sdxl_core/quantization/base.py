"""A frozen linear layer in fewer bits, and what a format of such weights has to do."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

# O outputs, I inputs


class Format(Protocol):
    """How a weight is kept: a pure function there, and one back."""

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """The tensors to keep, by name."""
        ...

    def dequantize(self, kept: dict[str, Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """-> weight_OI."""
        ...


class QuantizedLinear(nn.Module):
    """`x W^T + b` with W kept in a format, and taken back to numbers for each product.

    The backward pass takes it back once more instead of keeping it: otherwise every layer's whole W would stay in
    memory from the forward pass on, and fewer bits would need more memory than before.
    """

    def __init__(self, linear: nn.Linear, form: Format) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.form = form
        self.shape, self.dtype = linear.weight.shape, linear.weight.dtype
        self.bias = linear.bias
        self.names: list[str] = []
        for name, tensor in form.quantize(linear.weight.detach()).items():
            self.names.append(name)
            self.register_buffer(name, tensor)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """-> weight_OI."""
        return self.form.dequantize({name: getattr(self, name) for name in self.names}, self.shape, dtype)

    @property
    def weight(self) -> Tensor:
        """For adapters that ask for the base's weight, such as DoRA."""
        return self.dequantized(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        out: Tensor = _Product.apply(x, self)
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _Product(torch.autograd.Function):
    """x W^T, keeping neither x, as W does not learn, nor W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.dequantized(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.dequantized(grad.dtype), None
