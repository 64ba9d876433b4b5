"""Every kind of picture is decoded to pixel values worked out by hand, or refused with its name."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sdxl_core.data.decode import PIXELS_PER_BYTE, BadPicture, decode, open_rgb
from sdxl_core.errors import UserError

Pixel = tuple[int, int, int]
GREY, GREY_ALPHA, RGB, RGBA = 0, 4, 2, 6  # PNG colour types


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def raw_png(width: int, height: int, bits: int, colour_type: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG made by hand, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png16(colour_type: int, *values: int, extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    return raw_png(1, 1, 16, colour_type, b"\0" + struct.pack(f">{len(values)}H", *values), *extra)


def palette_with_transparency() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    return saved(image, transparency=0)


def one(mode: str, color: object) -> Image.Image:
    return Image.new(mode, (1, 1), color)  # type: ignore[arg-type]


FORMATS: dict[str, tuple[bytes, list[Pixel]]] = {
    "rgb": (saved(one("RGB", (1, 2, 3))), [(1, 2, 3)]),
    "grey": (saved(one("L", 77)), [(77, 77, 77)]),
    "black and white": (saved(one("1", 1)), [(255, 255, 255)]),
    "clear pixel": (saved(one("RGBA", (9, 9, 9, 0))), [(255, 255, 255)]),
    "half-clear red on white": (saved(one("RGBA", (255, 0, 0, 51))), [(255, 204, 204)]),
    "grey with alpha": (saved(one("LA", (0, 102))), [(153, 153, 153)]),
    "palette": (saved(one("RGB", (3, 4, 5)).convert("P", palette=Image.Palette.ADAPTIVE)), [(3, 4, 5)]),
    "palette, clear entry": (palette_with_transparency(), [(255, 255, 255), (40, 50, 60)]),
    "clear colour": (saved(one("RGB", (7, 8, 9)), transparency=(7, 8, 9)), [(255, 255, 255)]),
    "16-bit grey": (png16(GREY, 257 * 100), [(100, 100, 100)]),
    "16-bit white": (png16(GREY, 65535), [(255, 255, 255)]),
    "16-bit dark": (png16(GREY, 600), [(2, 2, 2)]),
    "16-bit clear grey": (png16(GREY, 600, extra=((b"tRNS", struct.pack(">H", 600)),)), [(255, 255, 255)]),
    "16-bit rgb": (png16(RGB, 257 * 10, 257 * 20, 257 * 30), [(10, 20, 30)]),
    "16-bit rgb, white": (png16(RGB, 65535, 0, 65535), [(255, 0, 255)]),
    "16-bit rgb between": (png16(RGB, 256 * 9 + 255, 256 * 9, 255), [(9, 9, 0)]),  # Pillow takes the upper byte
    "16-bit rgb, half clear": (png16(RGBA, 65535, 0, 0, 51 * 257), [(255, 204, 204)]),
    "16-bit rgba": (png16(RGBA, 0, 0, 0, 0), [(255, 255, 255)]),
    "16-bit grey with alpha": (png16(GREY_ALPHA, 257 * 9, 65535), [(9, 9, 9)]),
    "16-bit tiff": (saved(Image.fromarray(np.full((1, 1), 257 * 200, np.uint16)), "TIFF"), [(200, 200, 200)]),
    "16-bit pgm": (b"P5 1 1 65535\n" + struct.pack(">H", 257 * 50), [(50, 50, 50)]),
    "cmyk tiff": (saved(one("CMYK", (0, 255, 255, 0)), "TIFF"), [(255, 0, 0)]),
    "bmp": (saved(one("RGB", (1, 2, 3)), "BMP"), [(1, 2, 3)]),
    "webp with alpha": (saved(one("RGBA", (0, 0, 0, 0)), "WEBP", lossless=True), [(255, 255, 255)]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_known_pixels(name: str) -> None:
    data, expected = FORMATS[name]
    picture = open_rgb(data, 1)
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 0)) for x in range(picture.width)] == expected


def test_cmyk_jpeg_keeps_its_colours() -> None:
    picture = open_rgb(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100), 1)
    np.testing.assert_allclose(np.asarray(picture)[8, 8], (255, 0, 0), atol=3)


def test_avif_is_read() -> None:
    picture = open_rgb(saved(Image.new("RGB", (16, 16), (200, 30, 60)), "AVIF", quality=100), 1)
    np.testing.assert_allclose(np.asarray(picture)[8, 8], (200, 30, 60), atol=3)


@given(st.integers(0, 65535))
def test_16_bit_greys_are_scaled_to_the_nearest_8_bit_grey(grey: int) -> None:
    expected = int(np.floor(grey * 255 / 65535 + 0.5))
    assert open_rgb(png16(GREY, grey)).getpixel((0, 0)) == (expected,) * 3


# Where the top left pixel of the upright picture is stored, after the EXIF standard's table for tag 274.
STORED_AT = {1: (0, 0), 2: (2, 0), 3: (2, 1), 4: (0, 1), 5: (0, 0), 6: (0, 1), 7: (2, 1), 8: (2, 0)}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED_AT)
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    stored = Image.new("RGB", (3, 2))
    stored.putpixel(STORED_AT[orientation], (255, 0, 0))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = open_rgb(saved(stored, kind, exif=exif, **options), 1)
    assert picture.size == ((3, 2) if orientation < 5 else (2, 3))
    assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_a_rotated_jpeg_and_a_phones_two_picture_file() -> None:
    exif = Image.Exif()
    exif[274] = 6
    assert open_rgb(saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif), 1).size == (20, 40)
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    decoded = decode(saved(red, "MPO", save_all=True, append_images=[blue]))
    assert (decoded.format, decoded.frames) == ("MPO", 2)
    np.testing.assert_allclose(np.asarray(decoded.image)[4, 4], (255, 0, 0), atol=3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    first, second = Image.new("RGB", (4, 4), (0, 255, 0)), Image.new("RGB", (4, 4), (255, 0, 0))
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(saved(first, kind, save_all=True, append_images=[second], **options))
    assert decoded.frames == 2
    assert decoded.image.getpixel((2, 2)) == (0, 255, 0)


def icc(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()  # type: ignore[arg-type]


def test_a_profile_is_applied_srgb_is_left_alone_and_a_broken_one_ignored() -> None:
    image = one("RGB", (10, 200, 90))
    for untouched in (icc("sRGB"), swap_red_and_blue(icc("sRGB")), b"no profile", icc("LAB")):
        assert open_rgb(saved(image, icc_profile=untouched)).getpixel((0, 0)) == (10, 200, 90)
    swapped = swap_red_and_blue(rename(icc("sRGB")))
    red, green, blue = open_rgb(saved(image, icc_profile=swapped)).getpixel((0, 0))  # type: ignore[misc]
    np.testing.assert_allclose((blue, green, red), (10, 200, 90), atol=2)


def rename(profile: bytes) -> bytes:
    """The profile, no longer calling itself sRGB."""
    return profile.replace("sRGB".encode("utf-16-be"), "none".encode("utf-16-be")).replace(b"sRGB", b"none")


def swap_red_and_blue(profile: bytes) -> bytes:
    """The profile with blue for red, so that applying it shows."""
    return profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


NOISE = saved(Image.effect_noise((64, 64), 90), "JPEG")
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "the file is empty"),
    "truncated.jpg": (NOISE[: len(NOISE) // 2], "damaged or truncated"),
    "truncated.png": (saved(Image.effect_noise((64, 64), 90))[:-900], "damaged or truncated"),
    "page.png": (b"\n<!DOCTYPE html><html>404</html>", "web page"),
    "text.png": (b"hello", "not a picture in a known format"),
    "vector.png": (saved(one("RGB", 0), "EPS"), "not a picture in a known format"),
    "float.tif": (saved(one("F", 0.5), "TIFF"), "no agreed white"),
    "int.tif": (saved(one("I", 70000), "TIFF"), "no agreed white"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, reason = DAMAGED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: .*{reason}"):
        open_rgb(tmp_path / name, 1)


def test_missing_files_folders_and_pipes_are_no_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for name in ("absent.png", ".", "pipe.png"):
        with pytest.raises(UserError, match="no such file"):
            open_rgb(tmp_path / name, 1)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_no_bytes_whatever_raise_anything_else(noise: bytes, keep: int) -> None:
    for data in (noise, NOISE[:keep] + noise, FORMATS["palette, clear entry"][0][:keep] + noise):
        try:
            assert decode(data, 1).image.mode == "RGB"
        except BadPicture as error:
            assert str(error)


@pytest.mark.parametrize(("side", "accepted"), [(1000, True), (1001, False)])
def test_the_limit_is_ours_and_exact(side: int, accepted: bool) -> None:
    data = saved(Image.new("1", (side, 1000)))
    if accepted:
        assert open_rgb(data, 1).size == (side, 1000)
    else:
        with pytest.raises(UserError, match=r"1001 x 1000 is 1\.001 megapixels, more than the 1 allowed"):
            open_rgb(data, 1)


def test_pillows_own_limit_neither_lowers_ours_nor_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert open_rgb(saved(Image.new("1", (100, 100))), 1).size == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_file_too_big_for_its_limit_is_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(17_000_000)
    with pytest.raises(UserError, match="17000000 bytes, more than"):
        open_rgb(tmp_path / "huge.png", 1)


BMP = saved(one("RGB", 0), "BMP")
TOO_LARGE, BOMB = "megapixels, more than the 100 allowed", "are a decompression bomb"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "20k.png": (lambda: raw_png(20_000, 20_000, 1, GREY, bytes(2501 * 20_000)), TOO_LARGE),
    "10k.png": (lambda: raw_png(10_000, 10_000, 1, GREY, bytes(1251 * 10_000)), BOMB),  # as large as is allowed
    "10k-grey.png": (lambda: raw_png(10_000, 10_000, 8, GREY, bytes(10_001 * 10_000)), BOMB),
    "50k.bmp": (lambda: BMP[:18] + struct.pack("<ii", 50_000, 50_000) + BMP[26:], TOO_LARGE),
    "64k.gif": (
        lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + saved(one("P", 0), "GIF")[10:],
        TOO_LARGE,
    ),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_without_decoding_them(tmp_path: Path, name: str) -> None:
    make, reason = BOMBS[name]
    bomb = tmp_path / name
    bomb.write_bytes(make())
    assert bomb.stat().st_size < 100_000
    program = """
import resource, sys
from sdxl_core.data.decode import open_rgb
from sdxl_core.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_rgb(sys.argv[1], 100)
except UserError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program, str(bomb)], capture_output=True, text=True, check=True)
    message, growth_kb = done.stdout.splitlines()
    assert name in message and reason in message
    assert int(growth_kb) < 50_000


def test_what_is_packed_well_is_a_bomb_only_if_it_is_large_and_never_if_it_passed_before() -> None:
    packed = raw_png(5000, 4000, 1, GREY, bytes(626 * 4000))
    assert len(packed) * PIXELS_PER_BYTE < 5000 * 4000
    with pytest.raises(UserError, match=r"5000 x 4000 pixels in .* bytes are a decompression bomb"):
        open_rgb(packed, 100)
    assert open_rgb(packed).size == (5000, 4000)
    assert open_rgb(raw_png(4000, 4000, 1, GREY, bytes(501 * 4000)), 100).size == (4000, 4000)
    noise = np.random.default_rng(0).integers(0, 256, 626 * 400, dtype=np.uint8).tobytes() + bytes(626 * 3600)
    rows = b"".join(b"\0" + noise[at + 1 : at + 626] for at in range(0, len(noise), 626))
    assert open_rgb(raw_png(5000, 4000, 1, GREY, rows), 100).size == (5000, 4000)


def test_extreme_shapes_are_pictures() -> None:
    assert open_rgb(saved(Image.new("RGB", (1, 1))), 1).size == (1, 1)
    assert open_rgb(saved(Image.new("RGB", (1, 5000))), 1).size == (1, 5000)
