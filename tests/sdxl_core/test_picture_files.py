"""Pictures as files."""

from __future__ import annotations

import io

from PIL import Image

from sdxl_core.picture_files import pixel_digest, png_bytes


def test_pixel_digest_ignores_how_a_picture_was_compressed_and_described() -> None:
    picture = Image.new("RGB", (4, 3), (1, 2, 3))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=9)
    assert pixel_digest(png_bytes(picture, {"parameters": "a cat"})) == pixel_digest(buffer.getvalue())
