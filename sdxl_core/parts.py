"""The parts of a model that can be trained. A trained parameter is named `<part>.<rest>`. Imports no torch."""

from __future__ import annotations

from typing import Literal, get_args

Part = Literal["unet", "text_encoder", "text_encoder_2", "tokens"]
PARTS: tuple[Part, ...] = get_args(Part)
"""In the order in which they are optimized, saved and logged."""


def part_of(name: str) -> Part:
    """The part that a trained parameter belongs to; a name that begins with none of them is the UNet's."""
    first = name.partition(".")[0]
    return next((part for part in PARTS if part == first), "unet")
