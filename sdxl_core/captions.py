"""What is made of a caption before it is encoded: orders of its tags. Importing this imports no torch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

from sdxl_core.config import CaptionsConfig, ShuffleConfig
from sdxl_core.errors import UserError


def caption_variants(caption: str, config: CaptionsConfig) -> tuple[str, ...]:
    """The different texts that stand for `caption` in training; itself alone if nothing is shuffled.

    A variant is a function of the caption and its number: raising `shuffle.variants` keeps those there were.
    """
    if config.shuffle is None or not caption:
        return (caption,)
    drawn = (_shuffled(caption, number, config.shuffle) for number in range(config.shuffle.variants))
    return tuple(dict.fromkeys(drawn))


def encoded_captions(captions: Iterable[str], config: CaptionsConfig) -> tuple[list[str], dict[str, list[int]]]:
    """-> all texts to encode, the empty one first; and for every caption the places of its variants among them.

    Raises:
        UserError: there is nothing to shuffle in any caption, and shuffling is asked for.
    """
    by_caption = {caption: caption_variants(caption, config) for caption in sorted({"", *captions})}
    if config.shuffle is not None:
        _require_tags(by_caption, config.shuffle)
    texts = ["", *sorted({text for variants in by_caption.values() for text in variants} - {""})]
    place = {text: i for i, text in enumerate(texts)}
    return texts, {caption: [place[text] for text in variants] for caption, variants in by_caption.items()}


def _require_tags(captions: Iterable[str], config: ShuffleConfig) -> None:
    """Raises UserError where no caption has enough tags for their order, or for leaving one out, to mean anything."""
    least = config.keep_tags + (1 if config.tag_dropout else 2)
    if all(len(_tags(caption, config)) < least for caption in captions):
        raise UserError.about(
            "captions.shuffle",
            expected=f"captions of {least} tags or more, with {config.separator!r} between them",
            got="none",
            fix="Set captions.shuffle.separator or keep_tags, or captions.shuffle=null",
        )


def _tags(caption: str, config: ShuffleConfig) -> list[str]:
    tags = (tag.strip() for tag in caption.split(config.separator))
    return [tag for tag in tags if tag]


def _shuffled(caption: str, number: int, config: ShuffleConfig) -> str:
    tags = _tags(caption, config)
    kept, others = tags[: config.keep_tags], tags[config.keep_tags :]
    seed = hashlib.sha256(f"shuffle/{number}/{caption}".encode()).digest()
    rng = random.Random(int.from_bytes(seed, "big"))
    rng.shuffle(others)
    return f"{config.separator} ".join([*kept, *(tag for tag in others if rng.random() >= config.tag_dropout)])
