"""Faces: found once per picture, the largest of each, by a detector of the tests' own and by insightface itself."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdxl_core.config import TransformConfig
from sdxl_core.data.crops import plan_crops
from sdxl_core.data.faces import read_faces
from sdxl_core.data.records import Box, Record, read_records, write_records
from sdxl_core.errors import UserError
from sdxl_core.faces import FaceDetector, InsightFace, find_faces

FACES = {"two": [(2, 3, 6, 9), (20, 4, 34, 19)], "none": [], "edge": [(30, 0, 40, 12)]}


class Magenta:
    """Finds rectangles of pure magenta: a picture's own faces, as the tests paint them."""

    def __init__(self) -> None:
        self.looked_at = 0

    def boxes(self, picture: Image.Image) -> list[Box]:
        self.looked_at += 1
        rgb_HWC = np.asarray(picture)
        magenta_HW = (rgb_HWC == (255, 0, 255)).all(axis=-1)
        found = list[Box]()
        while magenta_HW.any():
            top, left = (int(i[0]) for i in np.nonzero(magenta_HW))
            right = left + int(np.argmin(np.append(magenta_HW[top, left:], False)))
            bottom = top + int(np.argmin(np.append(magenta_HW[top:, left], False)))
            magenta_HW[top:bottom, left:right] = False
            found.append((left, top, right, bottom))
        return found


def paint(folder: Path) -> Path:
    """A dataset artifact of pictures with magenta faces."""
    (folder / "images").mkdir(parents=True)
    records = []
    for name, faces in FACES.items():
        picture = Image.new("RGB", (40, 20), (10, 20, len(records)))
        for face in faces:
            picture.paste((255, 0, 255), face)
        picture.save(folder / "images" / name, "PNG")
        sha256 = hashlib.sha256((folder / "images" / name).read_bytes()).hexdigest()
        records.append(Record(f"images/{name}", sha256, 40, 20, "x", None, name))
    write_records(folder, records)
    return folder


def find(dataset: Path, out: Path, cells: dict[str, bytes], detector: FaceDetector | None = None) -> dict[str, int]:
    return find_faces(dataset=dataset, load=lambda: detector or Magenta(), detector_digest="d", out=out, cells=cells)


def test_the_largest_face_of_each_picture_is_found(tmp_path: Path) -> None:
    dataset = paint(tmp_path / "data")
    assert find(dataset, tmp_path / "out", {}) == {"pictures": 3, "faces": 2, "detected": 3}
    found = read_faces(tmp_path / "out")
    assert [found[r.sha256] for r in read_records(dataset)] == [(20, 4, 34, 19), None, (30, 0, 40, 12)]


def test_a_picture_is_looked_at_once(tmp_path: Path) -> None:
    dataset, cells, detector = paint(tmp_path / "data"), dict[str, bytes](), Magenta()
    find(dataset, tmp_path / "a", cells, detector)
    assert find(dataset, tmp_path / "b", cells, detector)["detected"] == 0 and detector.looked_at == 3
    assert (tmp_path / "a" / "faces.jsonl").read_bytes() == (tmp_path / "b" / "faces.jsonl").read_bytes()


def test_what_the_dataset_tells_goes_before_what_is_found(tmp_path: Path) -> None:
    dataset = paint(tmp_path / "data")
    first, *others = read_records(dataset)
    write_records(dataset, [replace(first, face_box=(1.0, 2.0, 3.0, 4.0)), *others])
    assert find(dataset, tmp_path / "out", {})["pictures"] == 2
    found = read_faces(tmp_path / "out")
    records = read_records(dataset)
    faces = [picture.face for picture in plan_crops(records, TransformConfig(crop="face"), found)]
    assert faces == [(1, 2, 3, 4), None, (30, 0, 40, 12)]
    assert all(picture.face is None for picture in plan_crops(records, TransformConfig(crop="random"), found))


class Wild:
    """Boxes as detectors give them: fractions, over the edge, and beside the picture."""

    def boxes(self, picture: Image.Image) -> list[Box]:
        return [(-5.2, 1.7, 3.2, 8.5), (50, 50, 60, 60), (1, 1, 2, 2)]


def test_boxes_are_brought_into_the_picture(tmp_path: Path) -> None:
    dataset = paint(tmp_path / "data")
    find(dataset, tmp_path / "out", {}, Wild())
    assert {*read_faces(tmp_path / "out").values()} == {(0, 1, 4, 9)}


def scrfd(path: Path) -> None:
    """A detection model of insightface's form that finds one face, whatever it is shown.

    Nine outputs (scores, boxes, landmarks at strides 8, 16, 32; two anchors a place), constant but for the cell at
    stride 32 whose center is (320, 320): score 0.9, and distances of 2, 3, 4 and 5 strides to the box's edges.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    outputs, constants = [], []
    for part, width in (("score", 1), ("box", 4), ("point", 10)):
        for stride in (8, 16, 32):
            cells = (640 // stride) ** 2 * 2
            value = np.zeros((cells, width), np.float32)
            if stride == 32:
                value[2 * (10 * 20 + 10)] = {"score": [0.9], "box": [2, 3, 4, 5], "point": [0] * 10}[part]
            name = f"{part}{stride}"
            constants.append(numpy_helper.from_array(value, name + "_value"))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [cells, width]))
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    nodes = [
        helper.make_node("ReduceSum", ["input.1"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        *(helper.make_node("Add", [f"{o.name}_value", "nothing"], [o.name]) for o in outputs),
    ]
    shown = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "scrfd", [shown], outputs, [*constants, zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_insightface_is_asked_in_the_pictures_own_pixels(tmp_path: Path) -> None:
    """The model sees the picture scaled to 640 px; what it finds at (256, 224) to (448, 480) there is a half here."""
    pytest.importorskip("insightface")
    scrfd(tmp_path / "det.onnx")
    (box,) = InsightFace(tmp_path).boxes(Image.new("RGB", (320, 320)))
    assert box == pytest.approx((128, 112, 224, 240))


def test_a_folder_without_a_detection_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("insightface")
    with pytest.raises(UserError, match="expected an insightface detection model"):
        InsightFace(tmp_path)


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "insightface.app", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[faces\]'"):
        InsightFace(tmp_path)
