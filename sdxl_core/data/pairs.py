"""Preference pairs of a dataset artifact, and the `pairs.jsonl` that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdxl_core.data.lines import iter_lines, write_lines

FILE = "pairs.jsonl"
LABELS = (0.0, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures of one caption, and which of them is preferred."""

    first: str
    """sha256 of the picture's bytes; with `text`, it names a record of the dataset."""
    second: str
    label: float
    """1: the first is preferred; 0: the second; 0.5: neither."""
    text: str
    """Caption."""
    source: str
    """Name inside the dataset it came from, such as `part-0.parquet#12`."""
    human_label: float | None = None
    """The label before a scorer gave another (AI feedback)."""
    margin: float | None = None
    """By how much the scorers prefer one to the other, in the unit of their rule."""

    def __post_init__(self) -> None:
        if not all(isinstance(value, str) for value in (self.first, self.second, self.text, self.source)):
            raise ValueError("first, second, text and source should be text")
        if self.label not in LABELS or self.human_label not in (None, *LABELS):
            raise ValueError(f"label should be 0, 0.5 or 1, not {self.label!r} (human_label {self.human_label!r})")

    @property
    def preferred(self) -> str | None:
        """sha256 of the preferred picture; None of a tie."""
        return {1.0: self.first, 0.0: self.second}.get(float(self.label))

    @property
    def rejected(self) -> str | None:
        return {1.0: self.second, 0.0: self.first}.get(float(self.label))

    def as_json(self) -> dict[str, Any]:
        """The pair's fields; the optional ones only where there is something to say."""
        return {k: v for k, v in asdict(self).items() if v is not None or k not in ("human_label", "margin")}


def write_pairs(directory: Path, pairs: Iterable[Pair]) -> Path:
    """Write `pairs.jsonl` into `directory`, one pair a line in the order given; nothing else decides its bytes."""
    return write_lines(directory / FILE, (pair.as_json() for pair in pairs))


def has_pairs(directory: Path) -> bool:
    return (directory / FILE).is_file()


def iter_pairs(directory: Path) -> Iterator[Pair]:
    """Read what `write_pairs` wrote, one pair at a time.

    Raises:
        UserError: the file is missing, or a line is not a pair; the line is named.
    """
    return iter_lines(directory / FILE, Pair, "pair")
