"""Counting what a computation needs, on torch's meta device: shapes and number formats are real, numbers are not there.

Every tensor that the real code would allocate comes and goes here too, so the peak is counted and not guessed at.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all tensors that are alive, the most there were, floating-point operations, and operations of torch.

    A multiplication and an addition are two floating-point operations. A tensor counts from the moment an operation
    makes it until nothing holds its storage; operations that make none, such as views, are not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self.flops = 0
        self.operations = 0
        self._known: dict[int, Any] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor that was there before."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.occupy(size)

        def gone(_: object) -> None:
            self.live_bytes -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)

    def leave_out(self, tensor: Tensor) -> None:
        """Count it, and what else shows its storage, as nothing."""
        storage = tensor.untyped_storage()
        self._known[storage._cdata] = storage

    def occupy(self, size_bytes: int) -> None:
        """Count so many bytes more (or, below zero, fewer) than the tensors'."""
        self.live_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        known = len(self._known)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        self.operations += len(self._known) > known
        return out


def backward(loss: Tensor) -> None:
    """`loss.backward()` with function modes still on, which that call and torch.autograd.backward put aside: blocks
    that are computed again have to be as they were."""
    _engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


class FlashAttention(TorchFunctionMode):
    """torch's attention by the kernel it takes where it can, which keeps no scores; meta tensors would take another."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            q, k, v = (*args, *(kwargs or {}).values())[:3]  # a mask is small, and its kernel keeps as little
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
        return func(*args, **(kwargs or {}))


LOWERED = {functional.linear, functional.conv2d, torch.conv2d, torch.matmul, torch.bmm, torch.baddbmm, Tensor.matmul}
RAISED = {functional.layer_norm, functional.group_norm, functional.softmax, Tensor.softmax, torch.softmax}


class Autocast(TorchFunctionMode):
    """What autocast does to the operations of SDXL's networks; torch has none for meta tensors.

    torch's documentation ("Autocast Op Reference"): products in the lower format; on a GPU, not on a CPU, norms and
    softmax in float32. A trained weight is converted once in a forward pass. It has to be around the backward pass,
    too, where checkpointed blocks are computed again.
    """

    def __init__(self, lower: torch.dtype, device_type: str) -> None:
        super().__init__()
        self.lower = lower
        self.raised = RAISED if device_type == "cuda" else set()
        self.converted: dict[int, Tensor] | None = {}

    def end_forward(self) -> None:
        """As autocast's own end does, forget the converted weights; those that are still needed, autograd holds."""
        self.converted = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        attention = func is functional.scaled_dot_product_attention
        if self.lower != torch.float32 and (attention or func in LOWERED or func in self.raised):
            dtype = torch.float32 if func in self.raised else self.lower
            args = [self._to(value, dtype) for value in args]
            kwargs = {name: self._to(value, dtype) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _to(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if self.converted is None or not (isinstance(value, nn.Parameter) and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self.converted:
            self.converted[id(value)] = value.to(dtype)
        return self.converted[id(value)]
