"""Any photograph to plain 8-bit RGB, or a reason why not.

What is done to a picture, in this order:

1. its size is read from the header, and refused before anything is decoded if it is above the limit, or so large in so
   few bytes that it can only be a decompression bomb;
2. of several frames (animations, multi-page TIFF, a phone's MPO) the first is taken;
3. it is turned upright after its EXIF orientation;
4. 16-bit greys are scaled to 8 (Pillow's own conversion clips them to white);
5. an embedded ICC profile other than sRGB is applied, and an unusable one ignored, as browsers do;
6. transparency is laid over white.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from sdxl_core.data.formats import SUFFIXES
from sdxl_core.errors import UserError

READERS = tuple(sorted(SUFFIXES.keys() - {"MPO"}))  # Pillow reads MPO by its JPEG reader, under no name of its own

MAX_BYTES_PER_PIXEL = 16  # four uncompressed 32-bit channels; a larger file cannot be a picture within the limit
PIXELS_PER_BYTE = 300  # a flat picture at deflate's best, 1032:1, has 344 RGB pixels in a byte; photographs have few
BOMB_MEGAPIXELS = 16  # smaller ones cannot hurt, however well they are packed
_pillow_limit = threading.Lock()


class BadPicture(ValueError):
    """A picture that cannot be used; the message is the reason alone, without the picture's name."""


@dataclass(frozen=True)
class Decoded:
    """An upright 8-bit RGB picture and what its file was."""

    image: Image.Image
    format: str
    frames: int
    alpha: Image.Image | None
    """8-bit grey, white where the picture is opaque; None where its file has no transparency."""


def open_rgb(source: Path | str | bytes, max_megapixels: float | None = None) -> Image.Image:
    """The picture in a file, or in a file's bytes, as upright 8-bit RGB.

    Args:
        source: path or bytes.
        max_megapixels: refuse larger pictures before decoding. None suits only pictures that passed a limit before,
            such as those of a dataset artifact.

    Raises:
        UserError: there is no such file, it is no picture, it is damaged, too large or of an ambiguous kind.
    """
    name = "picture" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else read_picture(Path(source), max_megapixels)
        return decode(data, max_megapixels).image
    except BadPicture as error:
        raise UserError(f"{name}: {error}") from error


def read_picture(path: Path, max_megapixels: float | None = None) -> bytes:
    """The bytes of a picture file.

    Raises:
        BadPicture: missing, not a regular file, unreadable, or too large to be a picture within the limit.
    """
    if not path.is_file():
        raise BadPicture("no such file")
    size = path.stat().st_size
    if max_megapixels is not None and size > (limit := int(max_megapixels * 1e6 * MAX_BYTES_PER_PIXEL)):
        raise BadPicture(f"{size} bytes, more than the {limit} a picture of {max_megapixels:g} megapixels can need")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadPicture(f"cannot be read: {error.strerror}") from error


def decode(data: bytes, max_megapixels: float | None = None) -> Decoded:
    """Bytes of a picture file -> upright 8-bit RGB.

    Raises:
        BadPicture: with the reason.
    """
    _refuse_other_content(data)
    try:
        with _open(data) as opened:
            _refuse_bomb(opened.size, len(data), max_megapixels)
            assert opened.format is not None
            kind, frames = opened.format, int(getattr(opened, "n_frames", 1))
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            return Decoded(_to_rgb(upright, kind), kind, frames, _alpha(upright))
    except (BadPicture, MemoryError):
        raise
    except UnidentifiedImageError:
        known = ", ".join(READERS)
        raise BadPicture(f"not a picture in a known format ({known}); convert it, or remove it") from None
    except Exception as error:  # on a damaged file Pillow's readers raise whatever they run into, OSError or not
        raise BadPicture(f"damaged or truncated: {error}") from error


def _refuse_other_content(data: bytes) -> None:
    if not data:
        raise BadPicture("the file is empty")
    if data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        raise BadPicture("a web page or other markup, not a picture; a failed download often leaves one")


def _open(data: bytes) -> Image.Image:
    with _without_pillow_limit():
        return Image.open(BytesIO(data), formats=READERS)


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Pillow's limit is one global that warns before it refuses; ours is an argument, and checked right after."""
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _refuse_bomb(size: tuple[int, int], packed_bytes: int, max_megapixels: float | None) -> None:
    if max_megapixels is None:
        return
    megapixels = size[0] * size[1] / 1e6
    if megapixels > max_megapixels:
        raise BadPicture(
            f"{size[0]} x {size[1]} is {megapixels:.4g} megapixels, more than the {max_megapixels:g} allowed; "
            "make it smaller, or raise dataset.max_megapixels"
        )
    if megapixels > BOMB_MEGAPIXELS and size[0] * size[1] > PIXELS_PER_BYTE * packed_bytes:
        raise BadPicture(
            f"{size[0]} x {size[1]} pixels in {packed_bytes} bytes are a decompression bomb, not a photograph; "
            f"make it smaller than {BOMB_MEGAPIXELS} megapixels if it is one"
        )


def _to_rgb(image: Image.Image, kind: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        raise BadPicture(f"{image.mode} pixels (32 bits) have no agreed white; convert it to 8 or 16 bits")
    if image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image = _to_srgb(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data or image.mode.startswith("I"):
        return None
    return image.convert("RGBA").getchannel("A")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey [0, 65535] => grey [0, 255]: 65535 = 255 * 257, rounded to nearest."""
    grey_HW = np.asarray(image).astype(np.uint32)
    scaled_HW = ((grey_HW + 128) // 257).astype(np.uint8)
    see_through = image.info.get("transparency")
    if isinstance(see_through, int):
        scaled_HW[grey_HW == see_through] = 255
    return Image.fromarray(scaled_HW).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    colour_space = {"RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}.get(image.mode)
    embedded = image.info.get("icc_profile")
    if not embedded or not colour_space:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(embedded))
        already_srgb = "sRGB" in (profile.profile.profile_description or "")
        if already_srgb or profile.profile.xcolor_space.strip() != colour_space:
            return image
        target_mode = "RGB" if colour_space == "CMYK" else image.mode
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=target_mode)
    except (OSError, ImageCms.PyCMSError):
        return image
    assert converted is not None  # None is returned only for conversion in place
    return converted
