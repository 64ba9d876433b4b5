"""Scores of the validation pictures, as far as the trainer knows of them: who gives them stands outside.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sdxl_core.config import Config


class ScoreFacts(Config):
    """What the trainer and its readers have to know of a score."""

    title: str
    unit: str
    decimals: int
    direction: Literal[1, -1, 0]
    """+1: higher is better; -1: lower is better; 0: describes, does not judge."""
    with_base: bool = False
    """Compares each picture with that of step 0 from the same prompt and noise."""
    digest: str
    """Of all that decides the score of a picture."""


@dataclass(frozen=True)
class ValidationPicture:
    """A picture of a model in training, as a file."""

    file: Path
    prompt: str
    place: int
    """Of the prompt among the validation prompts."""
    replicate: int
    """Which of the prompt's pictures it is."""
    seed: int
    """Of its noise."""


@dataclass(frozen=True)
class MeanScore:
    """Over the pictures that have a score."""

    value: float
    """NaN where none has."""
    pictures: int
    """How many have."""


class PictureScorer(Protocol):
    """Gives validation pictures their scores; the same pictures, the same bits."""

    def __call__(
        self, pictures: Sequence[ValidationPicture], base: Sequence[ValidationPicture]
    ) -> Mapping[str, MeanScore]:
        """One mean for each of `training.validation.scores`. `base` has the same pictures of step 0, if it was drawn.

        Raises:
            UserError: a score cannot be measured at all.
        """
        ...


def score_figure(name: str) -> str:
    """What the lines of a history call a score's mean."""
    return f"validation/{name}"


def scored_figure(name: str) -> str:
    """And the number of pictures that have it, where that is not all of them."""
    return f"validation/{name}/scored"
