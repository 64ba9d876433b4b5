"""A picture to training pictures: resize, crop, mirror, and the micro-conditioning that describes what was done.

The shorter side is resized to the resolution, then a square is cut from the longer. Everything is a function of the
picture's bytes and the configuration: crop k of a picture is the same in every run, on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sdxl_core.config import TransformConfig

# CHW: channels (3), height, width

TimeIds = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Placement:
    """Where a square crop lies: offsets in the pixels of the resized picture."""

    resized_height: int
    resized_width: int
    top: int
    left: int


@dataclass(frozen=True, eq=False)
class View:
    """One training picture made from a picture."""

    pixels_CHW: NDArray[np.float32]
    """RGB in [-1, 1]."""
    time_ids: TimeIds
    """original height, original width, crop top, crop left, target height, target width (`micro_conditioning`)."""
    crop: int
    """Which of the picture's crops this is, from 0."""
    mirrored: bool


def variants(picture: Image.Image, sha256: str, config: TransformConfig) -> list[View]:
    """All training pictures of one picture: each crop, and if `config.flip` each crop mirrored right after it.

    Args:
        picture: upright RGB (see `decode`).
        sha256: of the picture's bytes; with the crop's number it decides where a random crop lies.
        config: resolution, crops, flip.
    """
    views = []
    for crop in range(config.crops_per_image):
        placement = place(picture.height, picture.width, sha256, crop, config)
        square = _cut(picture, placement, config.resolution_px)
        for mirrored in (False, True) if config.flip else (False,):
            shown = ImageOps.mirror(square) if mirrored else square
            ids = micro_conditioning(picture.height, picture.width, placement, config.resolution_px, mirrored=mirrored)
            views.append(View(_to_array(shown), ids, crop, mirrored))
    return views


def place(height: int, width: int, sha256: str, crop: int, config: TransformConfig) -> Placement:
    """Where crop number `crop` of a `height` x `width` picture lies."""
    resolution, short = config.resolution_px, min(height, width)
    # round(side * resolution / short) in integers, so that no machine rounds otherwise
    resized_height, resized_width = ((2 * side * resolution + short) // (2 * short) for side in (height, width))
    spare_height, spare_width = resized_height - resolution, resized_width - resolution
    if config.crop == "center":
        return Placement(resized_height, resized_width, spare_height // 2, spare_width // 2)
    draw = hashlib.sha256(f"crop/{sha256}/{crop}".encode()).digest()
    top, left = (_draw_upto(spare, draw[at : at + 8]) for spare, at in ((spare_height, 0), (spare_width, 8)))
    return Placement(resized_height, resized_width, top, left)


def micro_conditioning(
    height: int, width: int, placement: Placement, resolution: int, *, mirrored: bool = False
) -> TimeIds:
    """What SDXL is told of a picture (Podell et al. 2023, arXiv:2307.01952, section 2.2), in the order of `time_ids`.

    The original size is the upright picture's before resizing; the crop counts pixels of the resized picture; the
    target is the crop's own size. A mirrored crop is a crop of the mirrored picture, so its left is counted from the
    other side.
    """
    left = placement.resized_width - resolution - placement.left if mirrored else placement.left
    return (float(height), float(width), float(placement.top), float(left), float(resolution), float(resolution))


def _draw_upto(largest: int, random_bytes: bytes) -> int:
    """64 random bits -> uniform integer in [0, largest]; the same bits keep their relative place at any size."""
    return (int.from_bytes(random_bytes, "big") * (largest + 1)) >> 64


def _cut(picture: Image.Image, placement: Placement, resolution: int) -> Image.Image:
    """Resize and crop in one pass (Lanczos, antialiased), so that a 1 x 5000 picture never becomes a giant between."""
    scale_y = picture.height / placement.resized_height
    scale_x = picture.width / placement.resized_width
    box = (
        placement.left * scale_x,
        placement.top * scale_y,
        min((placement.left + resolution) * scale_x, picture.width),
        min((placement.top + resolution) * scale_y, picture.height),
    )
    return picture.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)


def _to_array(square: Image.Image) -> NDArray[np.float32]:
    pixels_HWC = np.asarray(square, dtype=np.float32)  # uint8 HWC [0, 255] => float32 CHW [-1, 1]
    return np.ascontiguousarray((pixels_HWC / np.float32(127.5) - np.float32(1)).transpose(2, 0, 1))
