"""The formats of pictures that are read. Importing this loads no decoder."""

from __future__ import annotations

SUFFIXES = {
    "AVIF": "avif",
    "BMP": "bmp",
    "GIF": "gif",
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "PPM": "ppm",
    "TIFF": "tif",
    "WEBP": "webp",
}
"""Pillow's name (no vector, camera raw or document formats) -> the suffix it is kept under."""
