"""Crops and micro-conditioning against pictures whose pixels tell where they are."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sdxl_core.config import TransformConfig
from sdxl_core.data.buckets import Size
from sdxl_core.data.transform import Placement, Window, micro_conditioning, place, variants

SHA = hashlib.sha256(b"a picture").hexdigest()
shas = st.binary(max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())


def coordinates(width: int, height: int) -> Image.Image:
    """Red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8))


def levels(pixels_CHW: np.ndarray) -> np.ndarray:
    """[-1, 1] CHW => [0, 255] HWC."""
    return np.rint((pixels_CHW.transpose(1, 2, 0) + 1) * 127.5).astype(int)


def random_crops(resolution: int, count: int, flip: bool = False) -> TransformConfig:
    return TransformConfig(resolution_px=resolution, crop="random", crops_per_image=count, flip=flip)


@settings(max_examples=60)
@given(st.integers(0, 200), st.booleans(), st.sampled_from([16, 24]), shas, st.booleans())
def test_the_crop_is_where_its_ids_say(extra: int, tall: bool, side: int, sha256: str, center: bool) -> None:
    width, height = (side, side + extra) if tall else (side + extra, side)
    config = TransformConfig(resolution_px=side, flip=True) if center else random_crops(side, 3, flip=True)
    picture = coordinates(width, height)
    for view in variants(picture, Size(side, side), sha256, config):
        original_h, original_w, top, left, target_h, target_w = view.time_ids
        assert (original_h, original_w, target_h, target_w) == (height, width, side, side)
        shown = np.asarray(ImageOps.mirror(picture) if view.mirrored else picture).astype(int)
        expected = shown[int(top) : int(top) + side, int(left) : int(left) + side]
        np.testing.assert_array_equal(levels(view.pixels_CHW), expected)


def lanczos(length: int, resized: int) -> np.ndarray:
    """Weights (resized, length) of a three-lobed Lanczos filter, widened when shrinking; from its definition."""
    step = length / resized
    centers = (np.arange(resized)[:, None] + 0.5) * step
    x = (np.arange(length)[None] + 0.5 - centers) / max(step, 1)
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    normed: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normed


@settings(max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 3))
def test_a_view_is_a_crop_of_the_whole_picture_resized(width: int, height: int, crop: int) -> None:
    rng = np.random.default_rng(width * 100 + height)
    pixels = rng.integers(90, 166, (height, width, 3))  # far enough from black and white that nothing is clipped
    config = random_crops(32, 4)
    at = place(height, width, Size(32, 32), SHA, crop, config)
    rows_YH = lanczos(height, at.resized_height)[at.top : at.top + 32]
    columns_XW = lanczos(width, at.resized_width)[at.left : at.left + 32]
    expected = (rows_YH @ pixels.transpose(2, 0, 1) @ columns_XW.T).transpose(1, 2, 0)
    (view,) = [
        view
        for view in variants(Image.fromarray(pixels.astype(np.uint8)), Size(32, 32), SHA, config)
        if view.crop == crop
    ]
    assert np.abs(levels(view.pixels_CHW) - expected).max() <= 1.5


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    (view,) = variants(Image.fromarray(stripes), Size(32, 32), SHA, TransformConfig(resolution_px=32))
    np.testing.assert_allclose(view.pixels_CHW, 0, atol=0.05)


@given(st.integers(1, 6000), st.integers(1, 6000), shas, st.integers(0, 7))
def test_every_crop_lies_inside_a_picture_of_the_same_shape(width: int, height: int, sha256: str, crop: int) -> None:
    at = place(height, width, Size(64, 64), sha256, crop, random_crops(64, 8))
    assert min(at.resized_height, at.resized_width) == 64
    assert 0 <= at.top <= at.resized_height - 64 and 0 <= at.left <= at.resized_width - 64
    exact = max(height, width) * 64 / min(height, width)
    assert abs(max(at.resized_height, at.resized_width) - exact) <= 0.5


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (48, 96, Placement(64, 128, 0, 32)),
        (100, 64, Placement(100, 64, 18, 0)),
        (64, 64, Placement(64, 64, 0, 0)),
        (3000, 4000, Placement(64, 85, 0, 10)),
        (5000, 1, Placement(320_000, 64, 159_968, 0)),
    ],
)
def test_center_crops_worked_out_by_hand(height: int, width: int, expected: Placement) -> None:
    assert place(height, width, Size(64, 64), SHA, 0, TransformConfig()) == expected


def test_micro_conditioning_worked_out_by_hand() -> None:
    # 1200 x 800 photo at 512: resized to 768 x 512, random crop 37 px from the left; mirrored, 768 - 512 - 37 = 219.
    at = Placement(resized_height=512, resized_width=768, top=0, left=37)
    plain, mirrored = (Window(Size(512, 512), at, crop=0, mirrored=mirrored) for mirrored in (False, True))
    assert micro_conditioning(800, 1200, plain) == (800, 1200, 0, 37, 512, 512)
    assert micro_conditioning(800, 1200, mirrored) == (800, 1200, 0, 219, 512, 512)


def test_a_random_crop_is_a_function_of_picture_and_number() -> None:
    few, many = random_crops(64, 2), random_crops(64, 50)
    lefts = [place(64, 4000, Size(64, 64), SHA, crop, many).left for crop in range(50)]
    assert [place(64, 4000, Size(64, 64), SHA, crop, few).left for crop in range(2)] == lefts[:2]
    assert lefts[:3] == GOLDEN_LEFTS
    other = hashlib.sha256(b"another").hexdigest()
    assert lefts != [place(64, 4000, Size(64, 64), other, crop, many).left for crop in range(50)]


GOLDEN_LEFTS = [3463, 3182, 277]  # a change here changes everybody's cached latents


def test_random_crops_cover_the_whole_range_evenly() -> None:
    config = random_crops(64, 4000)
    lefts = np.array([place(64, 64 + 9, Size(64, 64), SHA, crop, config).left for crop in range(4000)])
    counts = np.bincount(lefts, minlength=10)  # 10 places, 400 expected in each, standard deviation 19
    assert len(counts) == 10 and counts.min() > 400 - 5 * 19 and counts.max() < 400 + 5 * 19


def test_variants_are_listed_crop_by_crop_each_then_mirrored() -> None:
    views = variants(coordinates(40, 16), Size(16, 16), SHA, random_crops(16, 3, flip=True))
    assert [(view.crop, view.mirrored) for view in views] == [
        (crop, mirrored) for crop in range(3) for mirrored in (False, True)
    ]
    for plain, mirrored in zip(views[::2], views[1::2], strict=True):
        np.testing.assert_array_equal(plain.pixels_CHW[:, :, ::-1], mirrored.pixels_CHW)


def test_pixels_are_float32_from_minus_one_to_one_and_writable() -> None:
    picture = Image.new("RGB", (16, 16), (0, 255, 51))
    (view,) = variants(picture, Size(16, 16), SHA, TransformConfig())
    assert view.pixels_CHW.dtype == np.float32 and view.pixels_CHW.shape == (3, 16, 16)
    assert view.pixels_CHW.flags.c_contiguous and view.pixels_CHW.flags.writeable
    np.testing.assert_allclose(view.pixels_CHW[:, 0, 0], (-1, 1, -0.6), atol=1e-6)


def test_a_sliver_does_not_become_a_giant() -> None:
    (view,) = variants(Image.new("RGB", (1, 5000), (9, 9, 9)), Size(1024, 1024), SHA, TransformConfig())
    assert view.pixels_CHW.shape == (3, 1024, 1024)  # resizing first would take 1024 x 5 120 000 pixels
    assert view.time_ids[:2] == (5000, 1)
