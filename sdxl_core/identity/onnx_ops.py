"""ONNX operations in torch, as https://onnx.ai/onnx/operators defines them: those that face recognisers are made of.

All can be differentiated. Integers (shapes, axes) stay on the CPU; they decide where numbers go and are not computed
with. To add one: a function here, a line in OPS; the tests compare every line with onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sdxl_core.errors import UserError
from sdxl_core.identity.face_model import WHERE

Attributes = Mapping[str, Any]
Inputs = list[Any]
"""Tensors, or None where an optional input is not given."""
Operation = Callable[[Inputs, Attributes], Tensor]


class UnsupportedError(ValueError):
    """What of an operation cannot be done here."""


def _require(attributes: Attributes, name: str, *allowed: Any) -> None:
    if (value := attributes.get(name, allowed[0])) not in allowed:
        raise UnsupportedError(f"{name} = {value!r}")


def _given(inputs: Inputs, place: int) -> Any:
    return inputs[place] if place < len(inputs) else None


def _padded(x: Tensor, attributes: Attributes, value: float = 0.0) -> Tensor:
    """ONNX pads: all beginnings, then all ends."""
    _require(attributes, "auto_pad", "NOTSET", "VALID")
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if not any(pads) or attributes.get("auto_pad") == "VALID":
        return x
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight = inputs[:2]
    if weight.ndim != 4:
        raise UnsupportedError(f"a kernel of {weight.ndim - 2} dimensions")
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    groups = attributes.get("group", 1)
    padded = _padded(x, attributes)
    return F.conv2d(padded, weight, _given(inputs, 2), tuple(strides), 0, tuple(dilations), groups)


def _batch_normalization(inputs: Inputs, attributes: Attributes) -> Tensor:
    _require(attributes, "training_mode", 0)
    _require(attributes, "spatial", 1)
    x, scale, bias, mean, variance = inputs
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=attributes.get("epsilon", 1e-5))


def _p_relu(inputs: Inputs, attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    return torch.where(x >= 0, x, x * inputs[1])


def _leaky_relu(inputs: Inputs, attributes: Attributes) -> Tensor:
    return F.leaky_relu(inputs[0], attributes.get("alpha", 0.01))


def _clip(inputs: Inputs, attributes: Attributes) -> Tensor:
    low, high = _given(inputs, 1), _given(inputs, 2)
    low = attributes.get("min") if low is None else float(low)
    high = attributes.get("max") if high is None else float(high)
    x: Tensor = inputs[0]
    return x.clamp(low, high)


def _gemm(inputs: Inputs, attributes: Attributes) -> Tensor:
    a: Tensor = inputs[0].T if attributes.get("transA", 0) else inputs[0]
    b: Tensor = inputs[1].T if attributes.get("transB", 0) else inputs[1]
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    c: Tensor | None = _given(inputs, 2)
    return product if c is None else product + c * attributes.get("beta", 1.0)


def _flatten(inputs: Inputs, attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    axis = attributes.get("axis", 1)
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else x.ndim + axis]), -1)


def _reshape(inputs: Inputs, attributes: Attributes) -> Tensor:
    _require(attributes, "allowzero", 0)
    x: Tensor = inputs[0]
    return x.reshape([x.shape[i] if length == 0 else length for i, length in enumerate(inputs[1].tolist())])


def _transpose(inputs: Inputs, attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    return x.permute(attributes.get("perm", list(range(x.ndim))[::-1]))


def _axes(inputs: Inputs, attributes: Attributes) -> list[int] | None:
    """Older opsets have them as an attribute, newer ones as an input."""
    given = _given(inputs, 1)
    return list(attributes["axes"]) if "axes" in attributes else None if given is None else given.tolist()


def _squeeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    axes = _axes(inputs, attributes)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    axes = _axes(inputs, attributes)
    assert axes is not None, "Unsqueeze says which"
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _reduce(how: Callable[..., Tensor]) -> Operation:
    def reduce(inputs: Inputs, attributes: Attributes) -> Tensor:
        x, axes = inputs[0], _axes(inputs, attributes)
        if not axes and attributes.get("noop_with_empty_axes", 0):
            raise UnsupportedError("noop_with_empty_axes = 1")
        return how(x, dim=axes or list(range(x.ndim)), keepdim=bool(attributes.get("keepdims", 1)))

    return reduce


def _l2(x: Tensor, dim: list[int], keepdim: bool) -> Tensor:
    return x.square().sum(dim, keepdim).sqrt()


def _slice(inputs: Inputs, attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    starts, ends = inputs[1].tolist(), inputs[2].tolist()
    axes, steps = (given.tolist() if (given := _given(inputs, i)) is not None else None for i in (3, 4))
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = axes[place] if axes else place, steps[place] if steps else 1
        chosen = range(x.shape[axis])[start:end:step]
        x = x.index_select(axis, torch.tensor(list(chosen), device=x.device))
    return x


def _gather(inputs: Inputs, attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    indices: Tensor = inputs[1]
    axis = attributes.get("axis", 0) % x.ndim
    flat = (indices.flatten() % x.shape[axis]).to(x.device)
    return x.index_select(axis, flat).reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def _average_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    _require(attributes, "ceil_mode", 0)
    _require(attributes, "dilations", [1, 1])
    kernel = tuple(attributes["kernel_shape"])
    if any(attributes.get("pads", ())) and not attributes.get("count_include_pad", 0):
        raise UnsupportedError("pads without count_include_pad")
    return F.avg_pool2d(_padded(inputs[0], attributes), kernel, tuple(attributes.get("strides", [1, 1])))


def _max_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    _require(attributes, "ceil_mode", 0)
    _require(attributes, "storage_order", 0)
    kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", [1, 1]))
    padded = _padded(inputs[0], attributes, -math.inf)
    return F.max_pool2d(padded, kernel, strides, 0, tuple(attributes.get("dilations", [1, 1])))


def _constant(inputs: Inputs, attributes: Attributes) -> Tensor:
    raise UnsupportedError("a constant that is not a tensor")  # those that are, are constants of the graph


def _cast(inputs: Inputs, attributes: Attributes) -> Tensor:
    """Numbers are in one precision here; what turns fractions into integers is not differentiable."""
    integer_kinds, float_kinds = (2, 3, 4, 5, 6, 7, 12, 13), (1, 10, 11, 16)
    x: Tensor = inputs[0]
    kind = attributes["to"]
    if not (kind in float_kinds and x.is_floating_point()) and not (
        kind in integer_kinds and not x.is_floating_point()
    ):
        raise UnsupportedError(f"to = {kind}")
    return x


def _pairwise(compute: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda inputs, attributes: compute(inputs[0], inputs[1])


def _single(compute: Callable[[Tensor], Tensor]) -> Operation:
    return lambda inputs, attributes: compute(inputs[0])


OPS: dict[str, Operation] = {
    "Add": _pairwise(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda inputs, attributes: torch.cat(inputs, attributes["axis"]),
    "Constant": _constant,
    "Conv": _conv,
    "Div": _pairwise(torch.div),
    "Dropout": _single(lambda x: x),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _single(lambda x: x.mean((2, 3), keepdim=True)),
    "Identity": _single(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "MatMul": _pairwise(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _pairwise(torch.mul),
    "PRelu": _p_relu,
    "Pow": _pairwise(torch.pow),
    "ReduceL2": _reduce(_l2),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _single(torch.relu),
    "Reshape": _reshape,
    "Shape": _single(lambda x: torch.tensor(x.shape)),
    "Sigmoid": _single(torch.sigmoid),
    "Slice": _slice,
    "Sqrt": _single(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _pairwise(torch.sub),
    "Tanh": _single(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def require_known(path: object, ops: set[str]) -> None:
    """Raises UserError naming the operations of a model that are not here."""
    if unknown := sorted(ops - OPS.keys()):
        raise UserError.about(
            f"{WHERE}.face_model {path}",
            expected="a network of operations that can be differentiated here",
            got=", ".join(unknown),
            fix="Use the recogniser of an insightface pack, such as w600k_r50.onnx",
        )
