"""The slow SSIM map, pixel by pixel outside the toy detector's two boxes, grown by a quarter or half a window."""

from __future__ import annotations

import itertools

import numpy as np

from tests.eval.references import Case
from tests.eval.references.face_detection import weights as weights
from tests.eval.references.ssim import similarity_map
from tests.eval.toy_faces import SMALL_BOX


def reference(case: Case) -> float:
    height, width, _ = case.pictures[0].shape
    boxes = [box for picture in case.pictures for box in boxes_in(picture)]
    outside = [
        not any(
            left - 5 < column + 1 and column < right + 5 and top - 5 < row + 1 and row < bottom + 5
            for left, top, right, bottom in boxes
        )
        for row, column in itertools.product(range(height), range(width))
    ]
    return float(similarity_map(case).mean(axis=2).reshape(-1)[outside].mean())


def boxes_in(picture: np.ndarray) -> list[np.ndarray]:
    """In px; a quarter of neither is more than half a window, 5 px."""
    side = picture.shape[0]
    red, green, _ = picture.mean(axis=(0, 1)) / 255
    left, top = 0.05 + 0.3 * green, 0.3 + 0.3 * red
    return [np.array(box) * side for box in (SMALL_BOX, (left, top, left + 0.4, top + 0.4))]
