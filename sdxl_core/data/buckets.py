"""At which sizes a picture is trained: one square, or the bucket of nearest shape (Podell et al. 2023, section 2.3)."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

from sdxl_core.config import BucketConfig, TransformConfig
from sdxl_core.errors import UserError

LEAST_FILLED = Fraction(9, 10)  # of the resolution's area; holds for all of SDXL's own buckets, and for no other pair


@dataclass(frozen=True, order=True)
class Size:
    """Of a picture, pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @property
    def area(self) -> int:
        return self.height * self.width

    def scale_of(self, height: int, width: int) -> Fraction:
        """How much a `height` x `width` picture has to be enlarged to cover this."""
        return max(Fraction(self.height, height), Fraction(self.width, width))


@functools.cache
def bucket_sizes(resolution_px: int, config: BucketConfig) -> tuple[Size, ...]:
    """The buckets of one resolution.

    All pairs of multiples of the step whose area is at most the resolution's square, and at least LEAST_FILLED of it
    or as much as the short side allows. With 1024 px, step 64, sides from 512 and aspects up to 4, they are the 41
    sizes of Podell et al. 2023 (arXiv:2307.01952), appendix I. Empty where not even a square fits.
    """
    step, area = config.step_px, resolution_px**2
    lowest = config.min_side_px if config.min_side_px is not None else resolution_px / 2
    square = resolution_px // step * step
    if square < max(step, config.min_side_px or 0):
        return ()
    found = {Size(square, square)}
    for short in range(step, square + 1, step):
        if short < lowest:
            continue
        longest = int(min(area // short, short * config.max_aspect)) // step * step
        for long in range(short, longest + 1, step):
            fullest = short * (long + step) > area
            if fullest or short * long >= LEAST_FILLED * area:
                found |= {Size(short, long), Size(long, short)}
    return tuple(sorted(found))


@functools.cache
def sizes_of(height: int, width: int, transform: TransformConfig) -> tuple[Size, ...]:
    """The sizes at which a `height` x `width` picture is trained, at least one; a size for each base resolution.

    With `max_upscale`, only those that the picture is large enough for; if there is none, the largest smaller one.
    """
    if transform.buckets is None:
        return (Size(transform.resolution_px, transform.resolution_px),)
    config, resolutions = transform.buckets, transform.base_resolutions_px
    nearest = [_nearest(height, width, bucket_sizes(each, config)) for each in resolutions]
    if config.max_upscale is None:
        return tuple(dict.fromkeys(nearest))
    within = [size for size in nearest if size.scale_of(height, width) <= config.max_upscale]
    return tuple(dict.fromkeys(within)) or (_shrunk(height, width, resolutions[0], config),)


def refuse_mixed_sizes(instances: Collection[str], classes: Collection[str]) -> None:
    """Instance and class rows share forward passes, so all need to be of one size.

    Raises:
        UserError: they are not.
    """
    if len({*instances, *classes}) > 1:
        raise UserError.about(
            "training.objective = prior_preservation",
            expected="pictures and class images of one size, as a row of both goes through the network at once",
            got=f"pictures of {_listed(instances)} and class images of {_listed(classes)}",
            fix="Set transform.buckets=null, or another objective (training.objective.kind=diffusion, prior=null)",
        )


def _nearest(height: int, width: int, sizes: Collection[Size]) -> Size:
    """By the ratio of the aspects, so that twice too wide is as far as twice too high; the larger one of two."""

    def distance(size: Size) -> tuple[Fraction, int, Size]:
        ratio = Fraction(size.height * width, size.width * height)
        return max(ratio, 1 / ratio), -size.area, size

    return min(sizes, key=distance)


def _shrunk(height: int, width: int, resolution_px: int, config: BucketConfig) -> Size:
    """The bucket of the largest resolution below `resolution_px` that asks for no more than `max_upscale`."""
    assert config.max_upscale is not None
    for smaller in range(resolution_px - resolution_px % config.step_px, 0, -config.step_px):
        if not (sizes := bucket_sizes(smaller, config)):
            break
        size = _nearest(height, width, sizes)
        if size.scale_of(height, width) <= config.max_upscale:
            break
    return size


def _listed(sizes: Collection[str], most: int = 4) -> str:
    shown = sorted(sizes)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
