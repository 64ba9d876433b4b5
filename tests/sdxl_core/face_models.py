"""Face recognisers for tests, as ONNX files written here: of insightface's form, and one that can be worked out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Graph:
    """Nodes and constants, added one after another."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def weight(self, *shape: int, low: float = -1.0) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant(self.rng.uniform(low, 1, shape) * (fan_in**-0.5 if low < 0 else 1))

    def op(self, kind: str, *inputs: str, named: str | None = None, **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        name = f"{named or 'n'}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=name, **attributes))
        return out

    def norm(self, x: str, width: int) -> str:
        """Statistics of random numbers, all positive where they have to be."""
        parts = [self.weight(width, low=0.5), self.weight(width), self.weight(width), self.weight(width, low=0.5)]
        return self.op("BatchNormalization", x, *parts, epsilon=2e-5)

    def save(self, path: Path, output: str, shape: list[Any], side_px: int = 112, opset: int = OPSET) -> Path:
        given = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["batch", 3, side_px, side_px])
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "test", [given], [out], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path


def iresnet(path: Path, widths: tuple[int, ...] = (8, 16), dim: int = 32, bytes_in: bool = False) -> Path:
    """An IResNet as insightface's packs have them, small and with random weights.

    `bytes_in`: with its normalisation in the graph, as packs from mxnet have it.
    """
    g, x, channels, side = Graph(), "input.1", 3, 112
    if bytes_in:
        x = g.op("Sub", x, g.constant(127.5), named="_minusscalar")
        x = g.op("Mul", x, g.constant(1 / 128), named="_mulscalar")
    x = g.op("Conv", x, g.weight(widths[0], 3, 3, 3), pads=[1] * 4, kernel_shape=[3, 3])
    x = g.op("PRelu", g.norm(x, widths[0]), g.weight(widths[0], 1, 1, low=0.1))
    channels = widths[0]
    for width in widths:
        inner = g.op("Conv", g.norm(x, channels), g.weight(width, channels, 3, 3), g.weight(width), pads=[1] * 4)
        inner = g.op("PRelu", inner, g.weight(width, 1, 1, low=0.1))
        inner = g.op("Conv", inner, g.weight(width, width, 3, 3), pads=[1] * 4, strides=[2, 2])
        shortcut = g.norm(g.op("Conv", x, g.weight(width, channels, 1, 1), strides=[2, 2]), width)
        x, channels, side = g.op("Add", g.norm(inner, width), shortcut), width, side // 2
    x = g.op("Flatten", g.norm(x, channels))
    x = g.op("Gemm", x, g.weight(dim, channels * side**2), g.weight(dim), transB=1)
    return g.save(path, g.norm(x, dim), ["batch", dim])


def colour_reader(path: Path) -> Path:
    """Closed form: mean colours of the 4 x 4 squares of the face's middle, and a constant."""
    g = Graph()
    middle = g.op("Slice", "input.1", *(g.constant(v, np.int64) for v in ([24, 24], [88, 88], [2, 3])))
    squares = g.op("AveragePool", middle, kernel_shape=[16, 16], strides=[16, 16])
    colours = g.op("Reshape", squares, g.constant([-1, 48], np.int64))
    some = g.op("ReduceMean", colours, axes=[1], keepdims=1)
    nothing = g.op("Mul", some, g.constant(0.0))
    out = g.op("Concat", colours, g.op("Add", nothing, g.constant(0.1)), axis=1)
    return g.save(path, out, ["batch", 49])


def colours_read(faces_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `colour_reader` gives, worked out apart from it and not yet of length 1."""
    middle = faces_B3HW[:, :, 24:88, 24:88].reshape(-1, 3, 4, 16, 4, 16).mean((3, 5)).reshape(-1, 48)
    return np.concatenate([middle, np.full((len(middle), 1), 0.1, np.float32)], 1)
