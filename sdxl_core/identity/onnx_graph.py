"""ONNX files as plain data: what goes in, what comes out, constants and nodes. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl_core.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEEDS_EXTRA = "training.consistency.identity_loss needs the package onnx: install with pip install -e '.[faces]'"
"""Of onnx, or another in its place."""
LOWEST_OPSET = 7
"""From here on operations broadcast as numpy does."""


@dataclass(frozen=True)
class Node:
    """One operation."""

    op: str
    name: str
    inputs: tuple[str, ...]
    """Names of values; empty: an optional input that is not given."""
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class OnnxGraph:
    """Nodes are in an order in which they can be computed."""

    path: Path
    nodes: tuple[Node, ...]
    constants: dict[str, NDArray[Any]]
    input_shapes: dict[str, tuple[int | None, ...]]
    """By name; None: any length."""
    output_ranks: dict[str, int]


def read_graph(path: Path, *, with_constants: bool = True) -> OnnxGraph:
    """Read an ONNX file; nothing in it is run.

    Raises:
        UserError: the package onnx is missing, the file is none of its kind, or keeps its weights elsewhere.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError(NEEDS_EXTRA) from None
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise UserError.about(str(path), expected="an ONNX model", got=error or type(error).__name__) from None
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < LOWEST_OPSET or not model.graph.output:
        raise UserError.about(str(path), expected=f"an ONNX model of opset {LOWEST_OPSET} or higher", got=f"{opset}")
    graph = model.graph
    inside = [a.t for node in graph.node for a in node.attribute]
    if any(tensor.external_data for tensor in [*graph.initializer, *inside]):
        fix = "Save it as one file: onnx.save(onnx.load(path), one_file)"
        raise UserError.about(str(path), expected="a model with its weights in it", got="weights elsewhere", fix=fix)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if with_constants}
    known = {tensor.name for tensor in graph.initializer}  # which older exports list among the inputs too
    return OnnxGraph(
        path,
        tuple(_node(node, onnx) for node in graph.node) if with_constants else (),
        constants,
        {value.name: _shape(value) for value in graph.input if value.name not in known},
        {value.name: len(value.type.tensor_type.shape.dim) for value in graph.output},
    )


def _node(node: Any, onnx: Any) -> Node:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for name, value in attributes.items():
        if isinstance(value, onnx.TensorProto):
            attributes[name] = onnx.numpy_helper.to_array(value)
        elif isinstance(value, bytes):
            attributes[name] = value.decode()
    return Node(node.op_type, node.name, tuple(node.input), tuple(node.output), attributes)


def _shape(value: Any) -> tuple[int | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def float_array(value: NDArray[Any]) -> NDArray[Any]:
    """Half and double precision as single."""
    import numpy as np

    return value.astype(np.float32) if np.issubdtype(value.dtype, np.floating) else value
