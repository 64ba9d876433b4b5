"""The pictures of several candidates: one row a prompt and noise, one column a model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from eval.choice import scored_as
from eval.config import GalleryConfig
from eval.gallery import QUALITY, REST_QUALITY, Badge, Thumbnail, judged_badge, thumbnail
from eval.images import GeneratedImage
from eval.matrix_words import Contender, Found
from eval.pairing import Key, paired_by_name
from eval.table import read_scores

MOST_PICTURES = 1500
"""In one page, of all models together."""

Images = Mapping[str, Sequence[GeneratedImage]]
"""By slug of a candidate, and `base`."""


@dataclass(frozen=True)
class ShownPicture:
    who: str
    picture: Thumbnail | None
    """None where there is none, or none that can be read."""
    badge: Badge | None
    """What the leading metric says of it against the base's."""


@dataclass(frozen=True)
class RowOfPictures:
    base: GeneratedImage
    pictures: list[ShownPicture]
    """The base's, then every candidate's."""
    is_sample: bool
    """One of those that were drawn at random, and are shown first, larger and in print."""


def rows_of_pictures(
    contenders: Sequence[Contender],
    found: Found,
    comparisons: Path,
    images: Images,
    baseline: str,
    sizes: GalleryConfig,
) -> list[RowOfPictures]:
    """A random sample first, drawn with a fixed seed; then as many others as the page may hold, in the set's order."""
    base = images["base"]
    keys = [image.key for image in base]
    first = random.Random(sizes.seed).sample(sorted(keys), min(sizes.sample, len(keys)))
    room = min(sizes.rest, max(0, MOST_PICTURES // (len(contenders) + 1) - len(first)))
    rest = [key for key in keys if key not in set(first)][:room]
    badges = {one.slug: _badges(found, one.slug, comparisons / one.slug, base) for one in contenders}
    by_key = {role: {image.key: image for image in mine} for role, mine in images.items()}
    names = {"base": baseline} | {one.slug: one.name for one in contenders}
    chosen, others = (sizes.max_side_px, QUALITY), (sizes.rest_side_px, REST_QUALITY)
    places = [(role, key, size) for some, size in ((first, chosen), (rest, others)) for key in some for role in names]

    def shown(place: tuple[str, Key, tuple[int, int]]) -> ShownPicture:
        role, key, size = place
        image = by_key[role].get(key)
        return ShownPicture(names[role], thumbnail(image, *size) if image else None, badges.get(role, {}).get(key))

    with ThreadPoolExecutor() as threads:
        pictures = threads.map(shown, places)
        return [
            RowOfPictures(by_key["base"][key], [next(pictures) for _ in names], is_sample)
            for some, is_sample in ((first, True), (rest, False))
            for key in some
        ]


def _badges(found: Found, slug: str, folder: Path, base: Sequence[GeneratedImage]) -> dict[Key, Badge]:
    """By picture, how the leading metric finds it."""
    leading = found[slug].leading
    if leading is None:
        return {}
    facts = leading.facts
    scores = paired_by_name([leading], read_scores(folder), base)[facts.name].by_key()
    return {
        image.key: judged_badge(leading, *scores[scored])
        for image in base
        if (scored := scored_as(image.key, facts)) in scores
    }
