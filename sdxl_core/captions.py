"""What is made of a caption before it is encoded: orders of its tags. Importing this imports no torch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

from sdxl_core.config import CaptionsConfig, ShuffleConfig


def caption_variants(caption: str, config: CaptionsConfig) -> tuple[str, ...]:
    """The different texts that stand for `caption` in training; itself alone if nothing is shuffled.

    A variant is a function of the caption and its number: raising `shuffle.variants` keeps those there were.
    """
    if config.shuffle is None or not caption:
        return (caption,)
    drawn = (_shuffled(caption, number, config.shuffle) for number in range(config.shuffle.variants))
    return tuple(dict.fromkeys(drawn))


def encoded_captions(captions: Iterable[str], config: CaptionsConfig) -> tuple[list[str], dict[str, list[int]]]:
    """-> all texts to encode, the empty one first; and for every caption the places of its variants among them."""
    by_caption = {caption: caption_variants(caption, config) for caption in sorted({"", *captions})}
    texts = ["", *sorted({text for variants in by_caption.values() for text in variants} - {""})]
    place = {text: i for i, text in enumerate(texts)}
    return texts, {caption: [place[text] for text in variants] for caption, variants in by_caption.items()}


def _shuffled(caption: str, number: int, config: ShuffleConfig) -> str:
    tags = [tag.strip() for tag in caption.split(config.separator)]
    tags = [tag for tag in tags if tag]
    kept, others = tags[: config.keep_tags], tags[config.keep_tags :]
    seed = hashlib.sha256(f"shuffle/{number}/{caption}".encode()).digest()
    rng = random.Random(int.from_bytes(seed, "big"))
    rng.shuffle(others)
    return f"{config.separator} ".join([*kept, *(tag for tag in others if rng.random() >= config.tag_dropout)])
