"""Where the largest face of each picture is, for crops that keep it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdxl_core.data.decode import open_rgb
from sdxl_core.data.faces import FILE
from sdxl_core.data.records import Box, read_records
from sdxl_core.errors import UserError
from sdxl_core.tensor_files import cell_key

VERSION = 1
NEEDS_EXTRA = "transform.face.detector needs the package insightface: install with pip install -e '.[faces]'"


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture, in its pixels."""

    box: Box
    points_52: NDArray[np.float64]
    """Eyes, nose, corners of the mouth, the picture's left ones first; x and y."""


class FaceDetector(Protocol):
    """Finds faces."""

    def boxes(self, picture: Image.Image) -> list[Box]:
        """Of all faces in an upright RGB picture, in its pixels."""
        ...


class InsightFace:
    """The detection model of an insightface pack (SCRFD, Guo et al. 2021, arXiv:2105.04714), on the CPU.

    Raises (on creation):
        UserError: the package is missing, or the folder holds no detection model.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from insightface.app import FaceAnalysis
        except ImportError:
            raise UserError(NEEDS_EXTRA) from None
        try:
            self.analysis = FaceAnalysis(
                name=str(folder), allowed_modules=["detection"], providers=["CPUExecutionProvider"]
            )
        except AssertionError:  # how the library says that no model in the folder detects faces
            raise UserError.about(
                f"transform.face.detector {folder}", expected="an insightface detection model (.onnx)", got="none"
            ) from None
        self.analysis.prepare(ctx_id=-1)

    def boxes(self, picture: Image.Image) -> list[Box]:
        return [_box(face) for face in self._find(picture)]

    def faces(self, picture: Image.Image) -> list[Face]:
        """Raises UserError where the model gives no landmarks."""
        found = self._find(picture)
        if any(face.kps is None for face in found):
            raise UserError.about("the face detector", expected="one that gives landmarks", got="boxes alone")
        return [Face(_box(face), np.asarray(face.kps, dtype=np.float64)) for face in found]

    def _find(self, picture: Image.Image) -> list[Any]:
        bgr_HWC = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
        return list(self.analysis.get(bgr_HWC))


def _box(face: Any) -> Box:
    left, top, right, bottom = (float(edge) for edge in face.bbox)
    return left, top, right, bottom


def find_faces(
    *,
    dataset: Path,
    load: Callable[[], FaceDetector],
    detector_digest: str,
    out: Path,
    cells: MutableMapping[str, bytes],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write the largest face of every picture that has no box yet into `faces.jsonl`.

    `load` is called only if there is a picture not in `cells`. Returns {"pictures", "faces", "detected"}: how many were
    looked at, in how many there is a face, and how many were not in `cells` before.
    """
    records = {r.sha256: r for r in read_records(dataset) if r.face_box is None}
    keys = {
        sha256: cell_key(what="faces", version=VERSION, detector=detector_digest, image=sha256) for sha256 in records
    }
    missing = [sha256 for sha256, key in keys.items() if key not in cells]
    detector = load() if missing else None
    for done, sha256 in enumerate(missing, start=1):
        assert detector is not None
        with open_rgb(dataset / records[sha256].image) as picture:
            cells[keys[sha256]] = json.dumps(_largest(detector.boxes(picture), picture.width, picture.height)).encode()
        progress(done, len(missing))
    boxes = {sha256: json.loads(cells[key]) for sha256, key in keys.items()}
    lines = [json.dumps({"image_sha256": sha256, "box": box}) + "\n" for sha256, box in boxes.items()]
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).write_text("".join(lines), encoding="utf-8")
    found = sum(box is not None for box in boxes.values())
    return {"pictures": len(boxes), "faces": found, "detected": len(missing)}


def _largest(boxes: list[Box], width: int, height: int) -> Box | None:
    """By the area inside the picture, in whole pixels outwards; detectors' boxes may reach over its edge."""
    inside = [
        (
            max(math.floor(left), 0),
            max(math.floor(top), 0),
            min(math.ceil(right), width),
            min(math.ceil(bottom), height),
        )
        for left, top, right, bottom in boxes
    ]
    faces = [box for box in inside if box[0] < box[2] and box[1] < box[3]]
    return max(faces, key=lambda box: ((box[2] - box[0]) * (box[3] - box[1]), box), default=None)
