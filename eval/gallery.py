"""Which pictures the report shows, and how they get into the page."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from eval import wording
from eval.config import GalleryConfig
from eval.errors import NotScored
from eval.images import GeneratedImage, Picture
from eval.pairing import Key, Paired
from eval.result import Comparison, JudgedMetric
from eval.table import Row

SMALL_PX = 256  # up to this side pictures stay lossless and are enlarged pixel by pixel


@dataclass(frozen=True)
class Thumbnail:
    """A picture inside the page."""

    uri: str
    width: int
    height: int
    digest: str

    @property
    def is_small(self) -> bool:
        return max(self.width, self.height) <= SMALL_PX


@dataclass(frozen=True)
class Card:
    """One prompt and seed: the base's picture beside the candidate's."""

    base: GeneratedImage
    candidate: GeneratedImage
    places: dict[str, int]
    """Tab -> position in it."""


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


def choose(
    base: Sequence[GeneratedImage], candidate: Sequence[GeneratedImage], leading: Paired | None, sizes: GalleryConfig
) -> list[Card]:
    """Biggest wins and losses on the leading metric and a seeded random sample; a pair in several tabs is one card."""
    others = {image.key: image for image in candidate}
    pairs = {image.key: (image, others[image.key]) for image in base if image.key in others}
    tabs: dict[str, list[Key]] = {"wins": [], "losses": []}
    if leading is not None:
        tabs = {tab: _shown_pairs(keys, pairs) for tab, keys in _extremes(leading, sizes).items()}
    keys = sorted(pairs)
    drawn = random.Random(sizes.seed).sample(keys, min(sizes.sample, len(keys)))
    tabs["sample"] = drawn
    places: dict[Key, dict[str, int]] = {}
    for tab, chosen in tabs.items():
        for place, key in enumerate(chosen):
            places.setdefault(key, {})[tab] = place
    return [Card(*pairs[key], places=found) for key, found in places.items()]


def _shown_pairs(keys: Iterable[Key], pairs: Iterable[Key]) -> list[Key]:
    """The pairs themselves; where a prompt was scored as a whole, its first pair that both sides have."""
    known, firsts = set(pairs), {prompt: (prompt, replicate) for prompt, replicate in sorted(pairs, reverse=True)}
    return [key if key in known else firsts[key[0]] for key in keys if key in known or key[0] in firsts]


def _extremes(leading: Paired, sizes: GalleryConfig) -> dict[str, list[Key]]:
    """Only true gains are wins, only true losses are losses. `leading` holds improvements: positive is better."""
    improvement = dict(zip(leading.keys, leading.delta.tolist(), strict=True))
    ranked = sorted(improvement, key=lambda key: (-improvement[key], key))
    wins = [key for key in ranked if improvement[key] > 0]
    losses = [key for key in reversed(ranked) if improvement[key] < 0]
    return {"wins": wins[: sizes.wins], "losses": losses[: sizes.losses]}


def thumbnail(picture: Picture, max_side_px: int) -> Thumbnail | None:
    """None when there is no readable picture; the page then says so."""
    try:
        image = picture.load()
    except NotScored:
        return None
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    file = BytesIO()
    if max(image.size) <= SMALL_PX:
        image.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(file, "WEBP", quality=82, method=4)
        kind = "webp"
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return Thumbnail(uri, image.width, image.height, picture.identity)


def improvements(paired: Paired, direction: int) -> Paired:
    """The same pairs with signs such that a positive delta is better."""
    return Paired(paired.keys, np.asarray(direction * paired.base), np.asarray(direction * paired.candidate))


def shown_cards(
    cards: Sequence[Card],
    found: Comparison,
    rows: Sequence[Row],
    paired: Mapping[str, Paired],
    sizes: GalleryConfig,
) -> list[ShownCard]:
    """The cards with their pictures and each metric's finding. `paired`: the judged metrics' scores by name."""
    scores = {name: pairs.by_key() for name, pairs in paired.items()}
    moved = {(row.metric_id, row.key): row.value for row in rows if row.model_id == "pair" and row.is_scored}
    shown = []
    for card in cards:
        key = card.base.key
        badges = [
            _judged_badge(metric, *scores[metric.facts.name][scored])
            for metric in found.judged
            if (scored := (key[0], 0) if metric.facts.scored == "prompt" else key) in scores[metric.facts.name]
        ]
        badges += [
            Badge(metric.facts.title, wording.plain(moved[metric.facts.name, key], metric.facts.decimals), "neutral")
            for metric in found.described
            if (metric.facts.name, key) in moved
        ]
        base, candidate = (thumbnail(image, sizes.max_side_px) for image in (card.base, card.candidate))
        shown.append(ShownCard(card, base, candidate, badges))
    return shown


def _judged_badge(metric: JudgedMetric, base: float, candidate: float) -> Badge:
    facts = metric.facts
    improvement = facts.direction * (candidate - base)
    tone = "neutral" if abs(improvement) <= facts.tie else "better" if improvement > 0 else "worse"
    return Badge(facts.title, wording.signed(candidate - base, facts.decimals), tone)
