"""Sizes against SDXL's own list and brute force; crops of any size against pictures that tell where they are."""

import hashlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pydantic import ValidationError

from sdxl_core.config import BucketConfig, TransformConfig
from sdxl_core.data.buckets import Size, bucket_sizes, refuse_mixed_sizes, sizes_of
from sdxl_core.data.crops import plan_crops
from sdxl_core.data.transform import mask_in, place, variants, windows
from sdxl_core.errors import UserError
from tests.sdxl_core.data.test_preflight import record
from tests.sdxl_core.data.test_transform import coordinates, lanczos, levels

SHA = hashlib.sha256(b"a picture").hexdigest()
SDXL = {  # short side: long sides (Podell et al. 2023, appendix I)
    512: (2048, 1984, 1920, 1856),
    576: (1792, 1728, 1664),
    640: (1600, 1536),
    704: (1472, 1408, 1344),
    768: (1344, 1280),
    832: (1216, 1152),
    896: (1152, 1088),
    960: (1088, 1024),
    1024: (1024,),
}
sides = st.integers(1, 300)
configs = st.builds(
    BucketConfig,
    step_px=st.sampled_from([8, 16, 24]),
    max_aspect=st.sampled_from([1.0, 1.5, 2.0, 4.0]),
    max_upscale=st.none() | st.sampled_from([1.0, 1.3, 3.0]),
    resolutions_px=st.none() | st.just((48, 96)),
)


def bucketed(**settings: object) -> TransformConfig:
    return TransformConfig.model_validate({"resolution_px": 64, **settings, "buckets": settings.get("buckets", {})})


def test_sdxls_own_buckets_are_a_special_case() -> None:
    pairs = [(short, long) for short, longs in SDXL.items() for long in longs]
    expected = {Size(*pair) for pair in pairs} | {Size(long, short) for short, long in pairs}
    assert len(expected) == 41
    assert {*bucket_sizes(1024, BucketConfig(min_side_px=512, max_aspect=4))} == expected


@given(st.integers(2, 40).map(lambda n: 8 * n), configs)
def test_every_bucket_keeps_to_its_limits_and_a_square_is_among_them(resolution: int, config: BucketConfig) -> None:
    sizes = bucket_sizes(resolution, config)
    assert (not sizes) == (resolution < config.step_px)
    for size in sizes:
        short, long = sorted((size.height, size.width))
        assert short % config.step_px == long % config.step_px == 0 and size.area <= resolution**2
        assert long <= short * config.max_aspect
        assert short >= resolution / 2 or size.height == size.width
        assert Size(size.width, size.height) in sizes
    assert not sizes or any(size.height == size.width for size in sizes)


@given(sides, sides)
def test_a_picture_goes_to_the_bucket_of_the_nearest_aspect(height: int, width: int) -> None:
    (found,) = sizes_of(height, width, bucketed(buckets={"step_px": 8, "max_aspect": 3}))

    def distance(size: Size) -> float:
        return abs(math.log(height / width) - math.log(size.height / size.width))

    nearest = min(distance(size) for size in bucket_sizes(64, BucketConfig(step_px=8, max_aspect=3)))
    assert distance(found) == pytest.approx(nearest, abs=1e-12)


@given(sides, sides, configs)
def test_no_picture_is_dropped_and_none_is_enlarged_beyond_the_limit(
    height: int, width: int, config: BucketConfig
) -> None:
    transform = TransformConfig(resolution_px=64, buckets=config)
    sizes = sizes_of(height, width, transform)
    assert 1 <= len(sizes) <= len(transform.base_resolutions_px)
    if config.max_upscale is None:
        return
    if any(size.scale_of(height, width) > config.max_upscale for size in sizes):  # too small for any bucket
        assert sizes == (Size(config.step_px, config.step_px),)


def test_sizes_worked_out_by_hand() -> None:
    """Large pictures are trained at both resolutions, smaller ones at one, tiny ones in the smallest bucket."""
    several = TransformConfig(buckets=BucketConfig(resolutions_px=(1024, 512), max_upscale=1))
    assert sizes_of(2000, 3000, several) == (Size(384, 640), Size(832, 1216))
    assert sizes_of(400, 640, several) == (Size(384, 640),)
    assert sizes_of(100, 100, several) == (Size(64, 64),)
    assert sizes_of(100, 100, TransformConfig(buckets=BucketConfig())) == (Size(1024, 1024),)
    assert sizes_of(100, 700, TransformConfig(resolution_px=64)) == (Size(64, 64),)


def test_every_picture_has_the_same_share_of_an_epoch() -> None:
    transform = TransformConfig(buckets=BucketConfig(resolutions_px=(1024, 512), max_upscale=1))
    planned = plan_crops([record("large", 3000, 2000), record("small", 600, 600)], transform, {})
    assert [(p.record.source, p.share) for p in planned] == [("large", 1), ("large", 1), ("small", 2)]


@pytest.mark.parametrize(
    "buckets", [{"step_px": 128}, {"min_side_px": 80}, {"step_px": 12}, {"max_aspect": 0.5}, {"resolutions_px": []}]
)
def test_buckets_that_cannot_be_are_refused(buckets: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        bucketed(buckets=buckets)


def test_class_images_of_another_size_are_refused_with_the_remedy() -> None:
    refuse_mixed_sizes({"64x64"}, {"64x64"})
    with pytest.raises(UserError, match=r"pictures of 48x80, 64x64 and class images of 64x64.*transform\.buckets=null"):
        refuse_mixed_sizes({"64x64", "48x80"}, {"64x64"})


# --- crops ---


@settings(max_examples=60)
@given(
    st.sampled_from([Size(16, 16), Size(16, 24), Size(40, 16)]),
    st.integers(0, 100),
    st.booleans(),
    st.sampled_from(["center", "random", "face"]),
    st.binary(max_size=4),
)
def test_the_crop_is_where_its_ids_say_at_any_size(size: Size, extra: int, tall: bool, crop: str, name: bytes) -> None:
    """Pictures that need no resizing, whose pixels are their own coordinates."""
    height, width = (size.height + extra, size.width) if tall else (size.height, size.width + extra)
    config = TransformConfig.model_validate({"crop": crop, "flip": True})
    picture = coordinates(width, height)
    face = (width * 0.1, height * 0.7, width * 0.2, height * 0.9)
    for view in variants(picture, size, hashlib.sha256(name).hexdigest(), config, face):
        original_h, original_w, top, left, target_h, target_w = view.time_ids
        assert (original_h, original_w, target_h, target_w) == (height, width, size.height, size.width)
        shown = np.asarray(ImageOps.mirror(picture) if view.mirrored else picture).astype(int)
        expected = shown[int(top) : int(top) + size.height, int(left) : int(left) + size.width]
        np.testing.assert_array_equal(levels(view.pixels_CHW), expected)


@settings(max_examples=40)
@given(st.integers(8, 90), st.integers(8, 90), st.sampled_from([Size(16, 32), Size(40, 24), Size(32, 32)]))
def test_a_view_is_a_crop_of_the_whole_picture_resized(height: int, width: int, size: Size) -> None:
    rng = np.random.default_rng(width * 100 + height)
    pixels = rng.integers(90, 166, (height, width, 3))
    config = TransformConfig(crop="random")
    at = place(height, width, size, SHA, 0, config)
    rows_YH = lanczos(height, at.resized_height)[at.top : at.top + size.height]
    columns_XW = lanczos(width, at.resized_width)[at.left : at.left + size.width]
    expected = (rows_YH @ pixels.transpose(2, 0, 1) @ columns_XW.T).transpose(1, 2, 0)
    (view,) = variants(Image.fromarray(pixels.astype(np.uint8)), size, SHA, config)
    assert np.abs(levels(view.pixels_CHW) - expected).max() <= 1.5


@given(sides, sides, st.sampled_from([Size(64, 64), Size(48, 80), Size(96, 40)]), st.sampled_from(["center", "random"]))
def test_the_picture_covers_its_bucket_and_no_more_than_needed(height: int, width: int, size: Size, crop: str) -> None:
    at = place(height, width, size, SHA, 0, TransformConfig.model_validate({"crop": crop}))
    assert 0 <= at.top <= at.resized_height - size.height and 0 <= at.left <= at.resized_width - size.width
    assert at.resized_height == size.height or at.resized_width == size.width
    scale = float(size.scale_of(height, width))
    assert abs(at.resized_height - height * scale) <= 0.5 and abs(at.resized_width - width * scale) <= 0.5


# --- faces ---

boxes = st.tuples(st.floats(0, 0.99), st.floats(0, 0.99), st.floats(0.01, 1), st.floats(0.01, 1)).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 0.001, max(b[1], b[3]) + 0.001)
)


@given(sides, sides, boxes, st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([Size(64, 64), Size(48, 80)]))
def test_the_face_is_inside_if_it_can_be(
    height: int, width: int, part: tuple[float, float, float, float], margin: float, size: Size
) -> None:
    left, top, right, bottom = part[0] * width, part[1] * height, part[2] * width, part[3] * height
    config = TransformConfig.model_validate({"crop": "face", "face": {"margin": margin}})
    at = place(height, width, size, SHA, 0, config, (left, top, right, bottom))
    assert 0 <= at.top <= at.resized_height - size.height and 0 <= at.left <= at.resized_width - size.width
    down, across = at.resized_height / height, at.resized_width / width
    for begin, end, offset, length, whole in (
        (top * down, bottom * down, at.top, size.height, at.resized_height),
        (left * across, right * across, at.left, size.width, at.resized_width),
    ):
        if end - begin <= length - 2:  # room for it wherever the pixels' grid lies
            assert offset <= begin + 1 and end - 1 <= offset + length
        around = margin * (end - begin)
        if end - begin + 2 * around <= length - 2:
            assert offset <= max(0, begin - around) and min(whole, end + around) <= offset + length


@pytest.mark.parametrize(
    ("face", "left"),
    [
        (None, 64),  # the center of 192 x 64 at 64 x 64
        ((80.0, 10, 100, 40), 64),  # is in the center crop already, margin and all
        ((130.0, 10, 150, 40), 91),  # moved just so far that 150 + 5 is inside
        ((0.0, 10, 20, 40), 0),  # at the edge
        ((20.0, 0, 120, 64), 38),  # wider than the crop: its middle, 70
    ],
)
def test_face_crops_worked_out_by_hand(face: tuple[float, float, float, float] | None, left: int) -> None:
    config = TransformConfig(crop="face")
    assert place(64, 192, Size(64, 64), SHA, 0, config, face).left == left


def test_a_face_moves_no_other_crop() -> None:
    for crop in ("center", "random"):
        config = TransformConfig.model_validate({"crop": crop})
        plain, given_one = (place(64, 192, Size(64, 64), SHA, 0, config, face) for face in (None, (0.0, 0, 9, 9)))
        assert plain == given_one


# --- masks ---


@settings(max_examples=40)
@given(
    st.integers(8, 60),
    st.integers(8, 60),
    st.sampled_from([Size(16, 32), Size(32, 16), Size(24, 24)]),
    st.sampled_from(["center", "random", "face"]),
)
def test_a_mask_is_cut_as_its_picture_and_averaged(height: int, width: int, size: Size, crop: str) -> None:
    """Against the integral over each cell, worked out from the placement; mirrored windows mirror it."""
    rng = np.random.default_rng(height * 100 + width)
    mask_HW = rng.integers(0, 256, (height, width))
    mask = Image.fromarray(mask_HW.astype(np.uint8))
    config = TransformConfig.model_validate({"crop": crop, "flip": True})
    shown = windows(height, width, size, SHA, config, (0.0, 0, width / 3, height / 3))
    assert [window.mirrored for window in shown] == [False, True]
    at, cells = shown[0].placement, (size.height // 8, size.width // 8)
    by_y = integrals(height, at.top * height / at.resized_height, 8 * height / at.resized_height, cells[0])
    by_x = integrals(width, at.left * width / at.resized_width, 8 * width / at.resized_width, cells[1])
    expected = by_y @ mask_HW @ by_x.T / 255
    plain, mirrored = (mask_in(mask, window, *cells) for window in shown)
    assert plain.shape == cells and plain.min() >= 0 and plain.max() <= 1
    if at.resized_height <= height and at.resized_width <= width:  # a finer mask is averaged, a coarser one repeated
        assert np.abs(plain - expected).max() <= 0.2
        assert np.abs(plain - expected).mean() <= 0.05
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def integrals(length: int, begin: float, step: float, cells: int) -> np.ndarray:
    """Weights (cells, length) of every pixel in each cell's mean."""
    edges = begin + step * np.arange(cells + 1)
    pixel = np.arange(length)
    upper = np.minimum(edges[1:, None], pixel + 1)
    lower = np.maximum(edges[:-1, None], pixel)
    overlap: np.ndarray = np.clip(upper - lower, 0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


def test_a_mask_in_whole_cells_stays_exact() -> None:
    """64 x 96 as it is: eight by eight cells of ones, of zeros and of a half are exactly that."""
    mask_HW = np.zeros((64, 96), np.uint8)
    mask_HW[:, 48:] = 255
    mask_HW[:8, 40:44] = 255
    window = windows(64, 96, Size(64, 96), SHA, TransformConfig())[0]
    cells = mask_in(Image.fromarray(mask_HW), window, 8, 12)
    assert cells[0, 5] == pytest.approx(0.5, abs=1 / 255)
    for y, x in itertools.product(range(8), range(12)):
        if (y, x) != (0, 5):
            assert cells[y, x] == (x >= 6)
