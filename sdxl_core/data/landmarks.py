"""The landmarks artifact: five points of every picture's face, and where they come to lie in its training pictures.

To make one: `sdxl_core.identity.landmarks`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdxl_core.config import TransformConfig
from sdxl_core.data.crops import Crops
from sdxl_core.data.transform import Window, windows

# 52: eyes, nose, corners of the mouth, the picture's left ones first; x and y, whole numbers being centers of pixels

FILE = "landmarks.jsonl"
Points = NDArray[np.float64]
SIDES_CHANGED = [1, 0, 2, 4, 3]
"""In a mirrored picture the right eye is the left one."""


def read_landmarks(folder: Path) -> dict[str, Points | None]:
    """By the pictures' sha256, points_52 in the upright picture; None where no face was found."""
    lines = [json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").splitlines()]
    return {line["image_sha256"]: None if line["points"] is None else np.array(line["points"]) for line in lines}


def mirrored(points_52: Points, width: int) -> Points:
    """Where the points are when the picture is mirrored."""
    return np.column_stack([width - 1 - points_52[:, 0], points_52[:, 1]])[SIDES_CHANGED]


def points_in(points_52: Points, window: Window, height: int, width: int) -> Points:
    """A `height` x `width` picture's points in the training picture that a window shows, in its pixels."""
    placement = window.placement
    scale = np.array([placement.resized_width / width, placement.resized_height / height])
    moved = (points_52 + 0.5) * scale - [placement.left, placement.top] - 0.5
    return mirrored(moved, window.size.width) if window.mirrored else moved


def points_of(picture: Crops, transform: TransformConfig, found: Mapping[str, Points | None]) -> list[Points] | None:
    """The points in every one of a picture's training pictures, in the order of `windows`; None without a face."""
    record = picture.record
    points = found[record.sha256]
    if points is None:
        return None
    shown = windows(record.height, record.width, picture.size, record.sha256, transform, picture.face)
    return [points_in(points, window, record.height, record.width) for window in shown]


def are_shown(points_52: Points, picture: Crops) -> bool:
    """Whether all of the points lie in a training picture of that size."""
    edge = [picture.size.width - 1, picture.size.height - 1]
    return bool(((points_52 >= 0) & (points_52 <= edge)).all())
