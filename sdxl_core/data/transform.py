"""A picture to training pictures: resize, crop, mirror, and the micro-conditioning that describes what was done.

The picture is resized to cover its size (a square, or a bucket), then what is over is cut off. Everything is a function
of the picture's bytes, its face if that decides the crop, and the configuration: crop k of a picture is the same in
every run, on every machine. Masks go the same way.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sdxl_core.config import TransformConfig
from sdxl_core.data.buckets import Size
from sdxl_core.data.records import Box

# CHW: channels (3), height, width

TimeIds = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Placement:
    """Where a crop lies: offsets in the pixels of the resized picture."""

    resized_height: int
    resized_width: int
    top: int
    left: int


@dataclass(frozen=True)
class Window:
    """One crop of a picture, mirrored or not."""

    size: Size
    placement: Placement
    crop: int
    """Which of the picture's crops this is, from 0."""
    mirrored: bool


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


def windows(
    height: int, width: int, size: Size, sha256: str, config: TransformConfig, face: Box | None = None
) -> list[Window]:
    """All crops of a picture at one size, and if `config.flip` each crop mirrored right after it."""
    return [
        Window(size, place(height, width, size, sha256, crop, config, face), crop, mirrored)
        for crop in range(config.crops_per_image)
        for mirrored in ((False, True) if config.flip else (False,))
    ]


def variants(
    picture: Image.Image, size: Size, sha256: str, config: TransformConfig, face: Box | None = None
) -> list[View]:
    """All training pictures of one picture at one size, in the order of `windows`.

    Args:
        picture: upright RGB (see `decode`).
        size: of the training pictures (see `sizes_of`).
        sha256: of the picture's bytes; with the crop's number it decides where a random crop lies.
        config: crops, flip.
        face: left, top, right, bottom in the picture's pixels, for `crop: face`.
    """
    views = []
    for window in windows(picture.height, picture.width, size, sha256, config, face):
        shown = _cut(picture, window, (size.width, size.height), Image.Resampling.LANCZOS)
        ids = micro_conditioning(picture.height, picture.width, window)
        views.append(View(_to_array(shown), ids, window.crop, window.mirrored))
    return views


def mask_in(mask: Image.Image, window: Window, height: int, width: int) -> NDArray[np.float32]:
    """The part of a picture's mask that a window shows, averaged down to `height` x `width` cells, in [0, 1].

    Args:
        mask: 8-bit grey, of the picture's own size.
        window: one of the picture's.
        height: cells, such as those of the latents.
        width: cells.
    """
    cells = _cut(mask, window, (width, height), Image.Resampling.BOX)
    return np.asarray(cells, dtype=np.float32) / np.float32(255)


def place(
    height: int, width: int, size: Size, sha256: str, crop: int, config: TransformConfig, face: Box | None = None
) -> Placement:
    """Where crop number `crop` of a `height` x `width` picture lies."""
    # the side that needs more enlarging fits exactly; round(side * to / of) in integers, so no machine rounds otherwise
    to, of = (size.height, height) if size.height * width > size.width * height else (size.width, width)
    resized_height, resized_width = ((2 * side * to + of) // (2 * of) for side in (height, width))
    spare_height, spare_width = resized_height - size.height, resized_width - size.width
    if config.crop == "random":
        draw = hashlib.sha256(f"crop/{sha256}/{crop}".encode()).digest()
        top, left = (_draw_upto(spare, draw[at : at + 8]) for spare, at in ((spare_height, 0), (spare_width, 8)))
        return Placement(resized_height, resized_width, top, left)
    top, left = spare_height // 2, spare_width // 2
    if config.crop == "face" and face is not None:
        left_px, top_px, right_px, bottom_px = face
        down, across = resized_height / height, resized_width / width
        top = _showing(top, size.height, spare_height, top_px * down, bottom_px * down, config.face.margin)
        left = _showing(left, size.width, spare_width, left_px * across, right_px * across, config.face.margin)
    return Placement(resized_height, resized_width, top, left)


def micro_conditioning(height: int, width: int, window: Window) -> TimeIds:
    """What SDXL is told of a picture (Podell et al. 2023, arXiv:2307.01952, section 2.2), in the order of `time_ids`.

    The original size is the upright picture's before resizing; the crop counts pixels of the resized picture; the
    target is the crop's own size. A mirrored crop is a crop of the mirrored picture, so its left is counted from the
    other side.
    """
    size, placement = window.size, window.placement
    left = placement.resized_width - size.width - placement.left if window.mirrored else placement.left
    return (float(height), float(width), float(placement.top), float(left), float(size.height), float(size.width))


def _showing(offset: int, length: int, spare: int, begin: float, end: float, margin: float) -> int:
    """The offset nearest to `offset` at which a crop of `length` holds [begin, end] and its margin.

    Where the crop is too short for both, the interval is in its middle; where the picture ends, so does the margin.
    """
    around = margin * (end - begin)
    lowest, highest = math.ceil(end + around) - length, math.floor(begin - around)
    middle = math.floor((begin + end - length) / 2)
    wanted = middle if lowest > highest else min(max(offset, lowest), highest)
    return min(max(wanted, 0), spare)


def _draw_upto(largest: int, random_bytes: bytes) -> int:
    """64 random bits -> uniform integer in [0, largest]; the same bits keep their relative place at any size."""
    return (int.from_bytes(random_bytes, "big") * (largest + 1)) >> 64


def _cut(picture: Image.Image, window: Window, to: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Resize and crop in one pass (antialiased), so that a 1 x 5000 picture never becomes a giant between.

    `to` is the result's width and height.
    """
    placement, size = window.placement, window.size
    scale_y = picture.height / placement.resized_height
    scale_x = picture.width / placement.resized_width
    box = (
        placement.left * scale_x,
        placement.top * scale_y,
        min((placement.left + size.width) * scale_x, picture.width),
        min((placement.top + size.height) * scale_y, picture.height),
    )
    shown = picture.resize(to, resampling, box=box)
    return ImageOps.mirror(shown) if window.mirrored else shown


def _to_array(shown: Image.Image) -> NDArray[np.float32]:
    pixels_HWC = np.asarray(shown, dtype=np.float32)  # uint8 HWC [0, 255] => float32 CHW [-1, 1]
    return np.ascontiguousarray((pixels_HWC / np.float32(127.5) - np.float32(1)).transpose(2, 0, 1))
