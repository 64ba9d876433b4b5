"""Landmarks and identity artifacts at toy size, by a detector and a recogniser of the tests' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdxl_core.config import TransformConfig
from sdxl_core.faces import Face
from sdxl_core.identity.alignment import TEMPLATE_52
from sdxl_core.identity.landmarks import LandmarkDetector, find_landmarks
from sdxl_core.identity.targets import embed_faces
from tests.sdxl_core.face_models import colour_reader


class Middle:
    """Finds a face in the middle of every picture, as large as half of it; one without any colour has none."""

    def __init__(self) -> None:
        self.looked_at = 0

    def faces(self, picture: Image.Image) -> list[Face]:
        self.looked_at += 1
        if all(low == high for low, high in picture.getextrema()):
            return []
        return [face_at(middle_of(picture.width, picture.height))]


def middle_of(width: int, height: int) -> NDArray[np.float64]:
    return TEMPLATE_52 * (min(width, height) / 2 / 112) + [width / 4, height / 4]


def face_at(points_52: NDArray[np.float64]) -> Face:
    (left, top), (right, bottom) = points_52.min(0), points_52.max(0)
    return Face((float(left), float(top), float(right), float(bottom)), points_52)


def write_identity(
    root: Path,
    dataset: Path,
    transform: TransformConfig,
    cells: dict[str, bytes] | None = None,
    detector: LandmarkDetector | None = None,
) -> dict[str, int]:
    """`landmarks`, `identity` and the recogniser `face.onnx` below `root`."""
    kept: dict[str, bytes] = {} if cells is None else cells
    find_landmarks(
        dataset=dataset,
        load=lambda: detector or Middle(),
        detector_digest="d",
        out=root / "landmarks",
        cells=kept,
    )
    return embed_faces(
        transform=transform,
        dataset=dataset,
        landmarks=root / "landmarks",
        recogniser=colour_reader(root / "face.onnx"),
        recogniser_digest="r",
        out=root / "identity",
        cells=kept,
    )
