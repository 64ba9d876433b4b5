"""Which pictures of a dataset are kept out of training, for the validation loss. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from sdxl_core.errors import UserError
from sdxl_core.training_config import ValidationLossConfig

WHERE = "training.validation.loss"


def choose_held_out(sha256s: Sequence[str], config: ValidationLossConfig) -> frozenset[str]:
    """Digests of the pictures that are not trained on; all copies of the same bytes are on the same side.

    Each picture has a place in [0, 1) that is a function of its bytes alone. `share` holds out those below it, so no
    picture ever changes sides. `pictures` holds out the lowest so many: a growing dataset may give a held-out picture
    back to training, but never takes one that was trained on.

    Raises:
        UserError: nothing would be held out, or nothing would be left to train on.
    """
    places = {sha256: _place(sha256) for sha256 in sha256s}
    if config.pictures is not None:
        chosen = frozenset(sorted(places, key=lambda sha256: places[sha256])[: config.pictures])
    else:
        assert config.share is not None, "a dataset of its own has no split"
        chosen = frozenset(sha256 for sha256, place in places.items() if place < config.share)
    if not chosen:
        fix = f"Set {WHERE}.pictures=1 in its stead, or a larger share"
        got = f"none below {config.share} among {len(places)}"
        raise UserError.about(f"{WHERE}.share", expected="a picture at least to hold out", got=got, fix=fix)
    if len(chosen) == len(places):
        setting, asked = ("share", config.share) if config.pictures is None else ("pictures", config.pictures)
        fix = f"The dataset has {len(places)} different pictures; hold out fewer"
        expected = "a picture at least to be left to train on"
        raise UserError.about(f"{WHERE}.{setting}", expected=expected, got=f"none with {asked}", fix=fix)
    return chosen


def refuse_shared(trained: Collection[str], held_out: Collection[str]) -> None:
    """Raises UserError when pictures of `dataset.validation_path` are trained on as well."""
    if shared := sorted(set(trained) & set(held_out)):
        named = ", ".join(sha256[:12] for sha256 in shared[:8]) + (" ..." if len(shared) > 8 else "")
        raise UserError.about(
            "dataset.validation_path",
            expected="pictures that are not trained on",
            got=f"{len(shared)} that dataset.path holds too (sha256 {named})",
            fix="Remove them from one of the two",
        )


def _place(sha256: str) -> float:
    return int.from_bytes(hashlib.sha256(f"held out/{sha256}".encode()).digest()[:7], "big") / 2**56
