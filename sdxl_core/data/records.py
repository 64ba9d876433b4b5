"""The record of one training picture, and the `records.jsonl` that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdxl_core.data.lines import iter_lines, write_lines

FILE = "records.jsonl"
Box = tuple[float, float, float, float]
"""left, top, right, bottom, pixels."""


@dataclass(frozen=True, slots=True)
class Record:
    """One picture of a dataset artifact."""

    image: str
    """File inside the artifact, `images/<sha256>.<suffix>`."""
    sha256: str
    """Of the file's bytes."""
    width: int
    """Pixels, after EXIF rotation."""
    height: int
    text: str
    """Caption."""
    concept: str | None
    """Name of what it shows: the sub-folder or column it came from, where the source has concepts."""
    source: str
    """Name inside the dataset it came from, such as `people/ann.png` or `part-0.parquet#12`."""
    mask: str | None = None
    """File inside the artifact with the mask: `masks/<sha256>.<suffix>`, or `image` itself where it is its alpha."""
    face_box: Box | None = None
    """The largest face, in pixels of the upright picture, where the dataset tells."""
    liked: bool | None = None
    """Whether it is a good picture of its caption, where the dataset tells."""

    def __post_init__(self) -> None:
        strings = (self.image, self.sha256, self.text, self.source)
        perhaps = (self.concept, self.mask)
        if not all(isinstance(value, str) for value in strings) or not all(isinstance(v, str | None) for v in perhaps):
            raise ValueError("image, sha256, text and source should be text, and concept and mask text or null")
        if not isinstance(self.liked, bool | None):
            raise ValueError(f"liked should be true, false or null, not {self.liked!r}")
        if not all(isinstance(side, int) and side > 0 for side in (self.width, self.height)):
            raise ValueError(f"width and height should be positive integers, not {self.width!r} x {self.height!r}")
        if self.face_box is not None:
            left, top, right, bottom = (float(edge) for edge in self.face_box)
            object.__setattr__(self, "face_box", (left, top, right, bottom))  # a list, where it comes from JSON

    def as_json(self) -> dict[str, Any]:
        """The record's fields; the optional ones only where there is something to say."""
        return {k: v for k, v in asdict(self).items() if v is not None or k not in ("mask", "face_box", "liked")}


def write_records(directory: Path, records: Iterable[Record]) -> Path:
    """Write `records.jsonl` into `directory`, one record a line in the order given; nothing else decides its bytes."""
    return write_lines(directory / FILE, (record.as_json() for record in records))


def read_records(directory: Path) -> list[Record]:
    """All of `iter_records`."""
    return list(iter_records(directory))


def iter_records(directory: Path) -> Iterator[Record]:
    """Read what `write_records` wrote, one record at a time.

    Raises:
        UserError: the file is missing, or a line is not a record; the line is named.
    """
    return iter_lines(directory / FILE, Record, "record")
