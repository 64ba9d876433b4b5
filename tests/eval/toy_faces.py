"""Face packs of a few kB that insightface loads: where the face is depends on the picture's colours, in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.sdxl_core.face_models import Graph, colour_reader

SIDE_PX = 64
"""The detector's only size; pictures are scaled into it."""
POINTS = ((0.34, 0.46), (0.66, 0.46), (0.5, 0.64), (0.37, 0.82), (0.63, 0.82))
"""Landmarks, in fractions of a box."""
SMALL_BOX = (0.70, 0.05, 0.95, 0.30)


def write_pack(folder: Path, *, landmarks: bool = True, recogniser: bool = True) -> Path:
    """A detector and a recogniser; see `detector` and tests.sdxl_core.face_models.colour_reader."""
    folder.mkdir(exist_ok=True)
    detector(folder / "det.onnx", landmarks)
    if recogniser:
        colour_reader(folder / "rec.onnx")
    return folder


def detector(path: Path, landmarks: bool) -> None:
    """Finds two faces in any picture whose mean blue is above its mean red minus a half; else none.

    The small one, always at SMALL_BOX, is the surer (0.9 against 0.8). The large one is a square of 0.4 of the side;
    its left edge is at 0.05 + 0.3 of the mean green, its upper edge at 0.3 + 0.3 of the mean red.
    """
    g = Graph()
    mean_C = g.op("ReduceMean", "input.1", axes=[0, 2, 3], keepdims=0)
    mean_C = g.op("Add", g.op("Mul", mean_C, g.constant(0.5)), g.constant(0.5))  # about [0, 1]
    red, green, blue = (_at(g, mean_C, channel) for channel in range(3))
    there = g.op("Cast", g.op("Greater", blue, g.op("Sub", red, g.constant([0.5]))), to=TensorProto.FLOAT)
    left = g.op("Add", g.op("Mul", green, g.constant([0.3])), g.constant([0.05]))
    top = g.op("Add", g.op("Mul", red, g.constant([0.3])), g.constant([0.3]))
    large = (left, top, _plus(g, left, 0.4), _plus(g, top, 0.4))
    small = tuple(g.constant([edge]) for edge in SMALL_BOX)
    scores = g.op("Mul", g.op("Concat", there, there, axis=0), g.constant([0.9, 0.8]))
    boxes = g.op("Concat", _distances(g, small), _distances(g, large), axis=0)
    points = g.op("Concat", _points(g, small), _points(g, large), axis=0)
    heads = {"score": (scores, 1), "box": (boxes, 4), "point": (points, 10)}
    _save(g, path, {name: head for name, head in heads.items() if landmarks or name != "point"})


def _at(g: Graph, vector: str, place: int) -> str:
    return g.op("Slice", vector, g.constant([place], np.int64), g.constant([place + 1], np.int64))


def _plus(g: Graph, value: str, more: float) -> str:
    return g.op("Add", value, g.constant([more]))


def _distances(g: Graph, box: tuple[str, ...]) -> str:
    """From the anchor at (0, 0) to the edges, in strides of 8 px: left and top count away from it."""
    left, top, right, bottom = box
    edges = g.op("Concat", g.op("Neg", left), g.op("Neg", top), right, bottom, axis=0)
    return g.op("Mul", edges, g.constant(SIDE_PX / 8))


def _points(g: Graph, box: tuple[str, ...]) -> str:
    left, top, right, bottom = box
    width, height = g.op("Sub", right, left), g.op("Sub", bottom, top)
    places = []
    for x, y in POINTS:
        places += [g.op("Add", left, g.op("Mul", width, g.constant([x])))]
        places += [g.op("Add", top, g.op("Mul", height, g.constant([y])))]
    return g.op("Mul", g.op("Concat", *places, axis=0), g.constant(SIDE_PX / 8))


def _save(g: Graph, path: Path, heads: dict[str, tuple[str, int]]) -> None:
    """SCRFD's outputs, two anchors a place: the first two anchors at stride 8 are the faces, all others are nothing."""
    outputs: list[Any] = []
    for name, (rows, width) in heads.items():
        for stride in (8, 16, 32):
            anchors, out = 2 * (SIDE_PX // stride) ** 2, f"{name}{stride}"
            if stride == 8:
                rows = g.op("Reshape", rows, g.constant([2, width], np.int64))
                rest = g.constant(np.zeros((anchors - 2, width)))
                g.nodes.append(helper.make_node("Concat", [rows, rest], [out], axis=0))
            else:
                g.nodes.append(helper.make_node("Identity", [g.constant(np.zeros((anchors, width)))], [out]))
            outputs.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, [anchors, width]))
    shown = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, SIDE_PX, SIDE_PX])
    graph = helper.make_graph(g.nodes, "toy_detector", [shown], outputs, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
