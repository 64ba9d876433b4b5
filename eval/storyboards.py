"""Storyboards as the report shows them: the base's frames above the candidate's, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eval import wording
from eval.gallery import Thumbnail, thumbnail
from eval.images import GeneratedImage
from eval.pairing import Key
from eval.result import MetricFacts
from eval.table import Row

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
class BoardScore:
    """What one metric says of a storyboard, in words; why there is no number, where there is none."""

    title: str
    base: str
    candidate: str
    difference: str
    """Empty unless both have a number."""


@dataclass(frozen=True)
class Strip:
    """One storyboard."""

    name: str
    seed: int | None
    frames: list[ShownFrame]
    scores: list[BoardScore]


@dataclass(frozen=True)
class Strips:
    shown: list[Strip]
    further: int
    """Storyboards beyond `MOST`."""


def strips(
    base: Sequence[GeneratedImage],
    candidate: Sequence[GeneratedImage],
    max_side_px: int,
    rows: Iterable[Row] = (),
    metrics: Iterable[MetricFacts] = (),
) -> Strips:
    """Every storyboard of the base's set, in its order, by the first replicate of every frame; below it what those of
    the metrics say that score storyboards."""
    scored = {(row.metric_id, row.model_id, row.key): row for row in rows}
    judges = [facts for facts in metrics if facts.scored == "board"]
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
        pictures = [_frame(image, others.get(image.key), side_px) for image in frames]
        found = [_score(facts, scored, (name, frames[0].replicate)) for facts in judges]
        shown.append(Strip(name, frames[0].seed, pictures, found))
    return Strips(shown, len(ordered) - len(shown))


def _score(facts: MetricFacts, rows: Mapping[tuple[str, str, Key], Row], key: Key) -> BoardScore:
    sides = [rows.get((facts.name, model_id, key)) for model_id in ("base", "candidate")]
    numbers = [row.value for row in sides if row is not None and row.is_scored]
    difference = wording.signed(numbers[1] - numbers[0], facts.decimals) if len(numbers) == len(sides) else ""
    base, candidate = (_number(facts, row) for row in sides)
    return BoardScore(facts.title, base, candidate, difference)


def _number(facts: MetricFacts, row: Row | None) -> str:
    if row is None:
        return "no frames"
    return wording.plain(row.value, facts.decimals) if row.is_scored else row.reason


def _frame(base: GeneratedImage, candidate: GeneratedImage | None, side_px: int) -> ShownFrame:
    other = None if candidate is None else thumbnail(candidate, side_px)
    return ShownFrame(base.frame, base.prompt, thumbnail(base, side_px), other)
