"""Frames with the person below the toy detector's small face painted over pixel by pixel, compared pair after pair."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.eval.references import Case, dino, frame_likeness
from tests.eval.toy_faces import SMALL_BOX, write_pack

SETTINGS = {"det_thresh": 0.85}  # the small face alone is as sure


def weights(folder: Path) -> dict[str, Path]:
    (folder / "vit").mkdir()
    return {**dino.weights(folder / "vit"), "pack": write_pack(folder / "pack")}


def reference(case: Case) -> float:
    return frame_likeness.reference(replace(case, pictures=[without_person(picture) for picture in case.pictures]))


def without_person(picture: np.ndarray) -> np.ndarray:
    """Hidden are two widths of the face from half a height above it, and three for eight heights below it."""
    side = len(picture)
    left, top, right, bottom = (side * edge for edge in SMALL_BOX)
    width, height = right - left, bottom - top
    painted = picture.copy()
    for row, column in itertools.product(range(side), range(side)):
        hair = left - width / 2 < column + 1 and column < right + width / 2 and top - height / 2 < row + 1
        body = left - width < column + 1 and column < right + width and bottom < row + 1 and row < bottom + 8 * height
        if (hair and row < bottom) or body:
            painted[row, column] = np.rint(255 * dino.MEAN)
    return painted
