"""Storyboards as the report shows them: the base's frames above the candidate's, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.gallery import Thumbnail, thumbnail
from eval.images import GeneratedImage

MOST = 12
"""Storyboards that a page holds; the others are counted."""
FRAME_SIDE_PX = 320


@dataclass(frozen=True)
class ShownFrame:
    number: int
    prompt: str
    base: Thumbnail | None
    candidate: Thumbnail | None


@dataclass(frozen=True)
class Strip:
    """One storyboard."""

    name: str
    seed: int
    frames: list[ShownFrame]


@dataclass(frozen=True)
class Strips:
    shown: list[Strip]
    further: int
    """Storyboards beyond `MOST`."""


def strips(base: Sequence[GeneratedImage], candidate: Sequence[GeneratedImage], max_side_px: int) -> Strips:
    """Every storyboard of the base's set, in its order, by the first replicate of every frame."""
    others = {image.key: image for image in candidate}
    boards: dict[str, dict[int, GeneratedImage]] = {}
    for image in sorted(base, key=lambda image: image.replicate):
        if image.storyboard:
            boards.setdefault(image.storyboard, {}).setdefault(image.frame, image)
    ordered = list(dict.fromkeys(image.storyboard for image in base if image.storyboard))
    side_px = min(max_side_px, FRAME_SIDE_PX)
    shown = []
    for name in ordered[:MOST]:
        frames = [boards[name][number] for number in sorted(boards[name])]
        shown.append(Strip(name, frames[0].seed, [_frame(image, others.get(image.key), side_px) for image in frames]))
    return Strips(shown, len(ordered) - len(shown))


def _frame(base: GeneratedImage, candidate: GeneratedImage | None, side_px: int) -> ShownFrame:
    other = None if candidate is None else thumbnail(candidate, side_px)
    return ShownFrame(base.frame, base.prompt, thumbnail(base, side_px), other)
