"""Which pictures the report shows, and how they get into the page."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from eval import wording
from eval.choice import Card, scored_as
from eval.config import GalleryConfig
from eval.errors import NotScored
from eval.images import Picture
from eval.pairing import Key, Paired
from eval.result import Comparison, JudgedMetric
from eval.table import Row

SMALL_PX = 256  # of the picture itself, not of what is left of a larger one
QUALITY, REST_QUALITY = 82, 72


@dataclass(frozen=True)
class Thumbnail:
    """A picture inside the page."""

    uri: str
    width: int
    height: int
    digest: str
    is_small: bool
    """So small that it stays lossless and is enlarged pixel by pixel."""


@dataclass(frozen=True)
class Badge:
    """One metric's scores of one pair of pictures."""

    title: str
    text: str
    tone: str
    """better, worse or neutral."""


@dataclass(frozen=True)
class ShownCard:
    card: Card
    base: Thumbnail | None
    candidate: Thumbnail | None
    badges: list[Badge]
    gains: str
    """JSON: metric -> improvement of this pair, to sort by."""


def thumbnail(picture: Picture, max_side_px: int, quality: int = QUALITY) -> Thumbnail | None:
    """None when there is no readable picture; the page then says so."""
    try:
        image = picture.load()
    except NotScored:
        return None
    original = image.size
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    file = BytesIO()
    if max(original) <= SMALL_PX:
        image.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(file, "WEBP", quality=quality, method=4)
        kind = "webp"
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return Thumbnail(uri, image.width, image.height, picture.identity, max(original) <= SMALL_PX)


def shown_cards(
    cards: Sequence[Card],
    found: Comparison,
    rows: Sequence[Row],
    paired: Mapping[str, Paired],
    sizes: GalleryConfig,
) -> list[ShownCard]:
    """The cards with their pictures and each metric's finding. `paired`: the judged metrics' scores by name."""
    findings = PairFindings(found, rows, paired)
    pictures = _thumbnails(cards, sizes)
    shown = []
    for card in cards:
        badges, gains = findings.of(card.base.key)
        base, candidate = next(pictures), next(pictures)
        shown.append(ShownCard(card, base, candidate, badges, json.dumps(gains)))
    return shown


class PairFindings:
    """What metrics say of single pairs."""

    def __init__(self, found: Comparison, rows: Sequence[Row], paired: Mapping[str, Paired]) -> None:
        self._found = found
        self._scores = {name: pairs.by_key() for name, pairs in paired.items()}
        self._moved = {(row.metric_id, row.key): row.value for row in rows if row.model_id == "pair" and row.is_scored}

    def of(self, key: Key) -> tuple[list[Badge], dict[str, float]]:
        """-> one badge a metric, and the improvement by metric."""
        judged = [
            (metric, *self._scores[metric.facts.name][scored])
            for metric in self._found.judged
            if (scored := scored_as(key, metric.facts)) in self._scores[metric.facts.name]
        ]
        badges = [judged_badge(*one) for one in judged]
        badges += [
            Badge(facts.title, wording.plain(self._moved[facts.name, key], facts.decimals), "neutral")
            for facts in (metric.facts for metric in self._found.described)
            if (facts.name, key) in self._moved
        ]
        return badges, {metric.facts.name: metric.facts.direction * (theirs - ours) for metric, ours, theirs in judged}


def _thumbnails(cards: Sequence[Card], sizes: GalleryConfig) -> Iterator[Thumbnail | None]:
    """Base, candidate, base and so on, made by several threads: Pillow decodes and scales without the interpreter."""
    chosen, rest = (sizes.max_side_px, QUALITY), (sizes.rest_side_px, REST_QUALITY)
    images = [(image, *(chosen if card.is_chosen else rest)) for card in cards for image in (card.base, card.candidate)]
    with ThreadPoolExecutor() as threads:
        yield from threads.map(lambda asked: thumbnail(*asked), images)


def judged_badge(metric: JudgedMetric, base: float, candidate: float) -> Badge:
    facts = metric.facts
    improvement = facts.direction * (candidate - base)
    tone = "neutral" if abs(improvement) <= facts.tie else "better" if improvement > 0 else "worse"
    return Badge(facts.title, wording.signed(candidate - base, facts.decimals), tone)
