"""The miniature's face pack: `python -m sdxl_core.miniature.face_pack` writes two ONNX models that insightface loads.

`detector.onnx` has SCRFD's outputs, `recogniser.onnx` ArcFace's; what they compute is `face_discriminants`. They know
the miniature world and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sdxl_core.miniature.face_discriminants import (
    CELL_PX,
    CROP_PX,
    EMBEDDING,
    FACE_SCALES,
    HALF_CROP,
    LUMINANCE,
    SOFTEST,
    STRONGEST,
    WINDOW,
    FaceSpace,
    FaceWindow,
    edge_filters,
    fit_space,
    fit_window,
)
from sdxl_core.miniature.fit import write_json
from sdxl_core.miniature.render import SIDE_PX

OPSET, IR_VERSION = 18, 9
STRIDES, ANCHORS = (8, 16, 32), 2
MOST_FACES = 4
NEIGHBOURS_PX = 9
"""Of the highest scores within so many pixels only one is a face."""
STEEPNESS, THRESHOLD = 8.0, 0.5
"""A window's score => how sure the detector is: sigmoid(steepness (score - threshold))."""
HALF_BOX = (0.17, 0.205)
"""Of the picture's side, for a face of size 1: the oval that `render` draws."""
TEMPLATE_PX = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Where ArcFace has eyes, nose and corners of the mouth in its picture of 112 px (insightface, utils/face_align.py).
The miniature's landmarks are these places, not those drawn: the mouth is drawn a little higher."""


class Graph:
    """Nodes and constants, added one after another."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def halves(self, value: Any) -> str:
        """A constant kept in float16."""
        return self.op("Cast", self.constant(value, np.float16), to=TensorProto.FLOAT)

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def op(self, kind: str, *inputs: str, to_name: str = "", **attributes: Any) -> str:
        out = to_name or f"v{len(self.nodes)}"
        # insightface takes normalisation for part of a model whose first nodes are called Sub... and Mul...
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"n{len(self.nodes)}", **attributes))
        return out

    def pick(self, values: str, place: int, axis: int = 0) -> str:
        return self.op("Slice", values, self.integers(place), self.integers(place + 1), self.integers(axis))

    def save(self, path: Path, name: str, shown: list[Any], outputs: dict[str, list[Any]]) -> None:
        given = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shown)
        told = [helper.make_tensor_value_info(out, TensorProto.FLOAT, shape) for out, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, name, [given], told, self.constants)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="sdxl-flows")
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def write_detector(path: Path, found: FaceWindow) -> None:
    """(1, 3, H, W), RGB, (px - 127.5) / 128 -> scores, boxes and landmarks at SCRFD's anchors.

    The faces found are at the first anchors of stride 8, wherever they are in the picture; all others score 0.
    """
    g = Graph()
    scale, bytes_ = g.constant(128.0), g.constant(127.5)
    small = g.integers(1, 3, SIDE_PX, SIDE_PX)
    picture = g.op(
        "Resize", g.op("Add", g.op("Mul", "input.1", scale), bytes_), "", "", small, mode="linear", antialias=1
    )
    scores_1KHW = _scores(g, picture, found)
    sure_N, size_N, x_N, y_N = _best(g, scores_1KHW)
    sides = g.op("Slice", g.op("Shape", "input.1"), g.integers(2), g.integers(4), g.integers(0))
    height, width = (g.pick(g.op("Cast", sides, to=TensorProto.FLOAT), place) for place in (0, 1))
    x_px, y_px = g.op("Mul", x_N, width), g.op("Mul", y_N, height)
    size_x, size_y = g.op("Mul", size_N, width), g.op("Mul", size_N, height)
    stride = g.constant(1 / STRIDES[0])
    x_anchor = g.constant([float(STRIDES[0] * (i // ANCHORS)) for i in range(MOST_FACES)])  # in the first row

    def away(place: str, size: str, times: float, anchor: str | None) -> str:
        """From the anchor to `place + times size`, in strides."""
        there = g.op("Add", place, g.op("Mul", size, g.constant(times)))
        return g.op("Mul", g.op("Sub", there, anchor) if anchor else there, stride)

    edges = [
        g.op("Neg", away(x_px, size_x, -HALF_BOX[0], x_anchor)),
        g.op("Neg", away(y_px, size_y, -HALF_BOX[1], None)),
        away(x_px, size_x, HALF_BOX[0], x_anchor),
        away(y_px, size_y, HALF_BOX[1], None),
    ]
    points = []
    for x, y in TEMPLATE_PX:
        points.append(away(x_px, size_x, HALF_CROP * (x / (CROP_PX / 2) - 1), x_anchor))
        points.append(away(y_px, size_y, HALF_CROP * (y / (CROP_PX / 2) - 1), None))
    heads = {"score": [sure_N], "box": edges, "points": points}
    outputs: dict[str, list[Any]] = {}
    for name, columns in heads.items():
        outputs |= _head(g, name, columns, sides)
    g.save(path, "miniature_detector", [1, 3, "height", "width"], outputs)


def _scores(g: Graph, bytes_13HW: str, found: FaceWindow) -> str:
    """`window_features` and `window_scores` in ONNX's operations."""
    softest = g.constant(SOFTEST)
    grey = g.op("Conv", bytes_13HW, g.constant(np.reshape(LUMINANCE, (1, 3, 1, 1))))
    light = g.op("Log", g.op("Add", grey, softest))
    edges = g.op("Conv", _padded(g, light, 1, 1, 1, 1), g.constant(edge_filters().numpy()))
    signed = g.op("Concat", edges, g.op("Neg", edges), axis=1)
    signed = g.op("Clip", signed, g.constant(0.0), g.constant(STRONGEST))
    colours = g.op("Log", g.op("Add", bytes_13HW, softest))
    hue = g.op("Concat", *(g.op("Sub", g.pick(colours, channel, 1), light) for channel in (0, 2)), axis=1)
    features = _padded(g, g.op("Concat", signed, hue, axis=1), 0, 0, 1, 1)
    features = g.op("AveragePool", features, kernel_shape=[2, 2], strides=[1, 1])
    rows, columns = WINDOW[0] - 1, WINDOW[1] - 1
    features = _padded(g, features, rows, columns, rows, columns)
    templates, bias = g.halves(found.templates_KCHW.numpy()), g.constant(found.bias_K.numpy())
    return g.op("Conv", features, templates, bias, dilations=[2, 2])


def _padded(g: Graph, values: str, top: int, left: int, bottom: int, right: int) -> str:
    return g.op("Pad", values, g.integers(0, 0, top, left, 0, 0, bottom, right), mode="edge")


def _best(g: Graph, scores_1KHW: str) -> tuple[str, str, str, str]:
    """How sure, of which size and where (fractions of the side) the best faces are; those that are none have 0."""
    highest = g.op("ReduceMax", scores_1KHW, g.integers(1), keepdims=1)
    scale = g.op("ArgMax", scores_1KHW, axis=1, keepdims=1)
    pad = NEIGHBOURS_PX // 2
    around = g.op("MaxPool", highest, kernel_shape=[NEIGHBOURS_PX] * 2, strides=[1, 1], pads=[pad] * 4)
    sure = g.op("Sigmoid", g.op("Mul", g.op("Sub", highest, g.constant(THRESHOLD)), g.constant(STEEPNESS)))
    peak = g.op("Cast", g.op("Equal", highest, around), to=TensorProto.FLOAT)
    flat = g.op("Reshape", g.op("Mul", sure, peak), g.integers(-1))
    sure_N, place_N = f"v{len(g.nodes)}_sure", f"v{len(g.nodes)}_place"
    g.nodes.append(helper.make_node("TopK", [flat, g.integers(MOST_FACES)], [sure_N, place_N], axis=0, name="best"))
    scale_N = g.op("Gather", g.op("Reshape", scale, g.integers(-1)), place_N)
    size_N = g.op("Gather", g.constant(FACE_SCALES), scale_N)
    side, half = g.integers(SIDE_PX), g.constant(0.5)
    row_N = g.op("Div", place_N, side)
    column_N = g.op("Sub", place_N, g.op("Mul", row_N, side))
    pixel = g.constant(1 / SIDE_PX)
    x_N, y_N = (
        g.op("Mul", g.op("Add", g.op("Cast", place, to=TensorProto.FLOAT), half), pixel) for place in (column_N, row_N)
    )
    return sure_N, size_N, x_N, y_N


def _head(g: Graph, name: str, columns: list[str], sides: str) -> dict[str, list[Any]]:
    """The faces' columns at the first anchors of the finest stride, zeros at all others; -> output and its shape."""
    outputs: dict[str, list[Any]] = {}
    upright = [g.op("Reshape", column, g.integers(-1, 1)) for column in columns]
    for stride in STRIDES:
        cells = g.op("ReduceProd", g.op("Div", sides, g.integers(stride)), g.integers(0), keepdims=1)
        anchors = g.op("Mul", cells, g.integers(ANCHORS))
        first = stride == STRIDES[0]
        rest = g.op("Sub", anchors, g.integers(MOST_FACES)) if first else anchors
        nothing = g.op("ConstantOfShape", g.op("Concat", rest, g.integers(len(columns)), axis=0))
        out = f"{name}_{stride}"
        if first:
            g.op("Concat", g.op("Concat", *upright, axis=1), nothing, axis=0, to_name=out)
        else:
            g.op("Identity", nothing, to_name=out)
        outputs[out] = [f"anchors_{stride}", len(columns)]
    return outputs


def write_recogniser(path: Path, space: FaceSpace) -> None:
    """(N, 3, 112, 112), RGB, (px - 127.5) / 127.5 -> embeddings, not of unit length, of what `face_features` gives."""
    g = Graph()
    half = g.constant(127.5)
    bytes_ = g.op("Add", g.op("Mul", "input.1", half), half)
    cells = g.op("AveragePool", bytes_, kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2)
    cells = g.op("Clip", cells, g.constant(1.0), g.constant(255.0))
    features = g.op("Flatten", g.op("Sqrt", cells))
    centered = g.op("Sub", features, g.constant(space.mean_D.numpy()))
    g.op("MatMul", centered, g.halves(space.directions_DE.numpy()), to_name="embedding")
    g.save(path, "miniature_recogniser", ["batch", 3, CROP_PX, CROP_PX], {"embedding": ["batch", EMBEDDING]})


def write_face_pack(folder: Path) -> None:
    """Fit both models and write them with the manifest by which insightface checks them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_detector(folder / "detector.onnx", fit_window())
    write_recogniser(folder / "recogniser.onnx", fit_space())
    (folder / "MODEL.LICENSE").write_text(
        "Part of sdxl-flows, under its licence (MIT). Learned from rendered portraits of the miniature world alone:\n"
        "useless on photographs.\n",
        encoding="utf-8",
    )

    def task(name: str, **more: object) -> dict[str, object]:
        return {"file": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(), **more}

    manifest = {
        "manifest_version": 2,
        "model_id": "miniature",
        "display_name": "sdxl-flows miniature faces (64 px drawings, not photographs)",
        "license": "MODEL.LICENSE",
        "tasks": {
            "detection": task("detector.onnx"),
            "recognition": task("recogniser.onnx", embedding_dimension=EMBEDDING),
        },
    }
    write_json(folder / "manifest.json", manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "weights" / "faces")
    folder = parser.parse_args().folder
    write_face_pack(folder)
    print(json.dumps({path.name: path.stat().st_size for path in sorted(folder.iterdir())}))


if __name__ == "__main__":
    main()
