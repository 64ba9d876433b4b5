"""The long table of scores: one row for each picture (or pair) and metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.images import GeneratedImage

SCORES = "scores.parquet"
PICTURES = "pictures.parquet"
INSTANCES = "instances"
"""Stands where a model's name stands, for scores of the instance pictures themselves."""
SCHEMA = pa.schema(
    [
        ("image_digest", pa.string()),  # of several pictures: all, joined by "+"; of a whole set: ""
        ("prompt_id", pa.string()),  # of a storyboard: its name
        ("seed", pa.int64()),  # 0, like the replicate, for a whole prompt or set; null: made elsewhere
        ("replicate", pa.int64()),
        ("model_id", pa.string()),  # base, candidate or pair; instances: an instance picture among the others
        ("metric_id", pa.string()),
        ("value", pa.float64()),  # NaN: not scored
        ("reason", pa.string()),  # why not; "" where scored
        ("evidence", pa.string()),  # digest of the picture that decided the score; "" where none did
    ]
)


@dataclass(frozen=True)
class Row:
    image_digest: str
    prompt_id: str
    seed: int | None
    replicate: int
    model_id: str
    metric_id: str
    value: float
    reason: str = ""
    evidence: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """What pairs it with the other model's row."""
        return self.prompt_id, self.replicate

    @property
    def is_scored(self) -> bool:
        return math.isfinite(self.value)


def write_scores(rows: Iterable[Row], folder: Path) -> None:
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    pq.write_table(table, folder / SCORES, compression="zstd")


def read_scores(folder: Path) -> tuple[Row, ...]:
    table = pq.read_table(folder / SCORES, schema=SCHEMA)
    return tuple(Row(**values) for values in table.to_pylist())


PICTURES_SCHEMA = pa.schema(
    [
        ("model_id", pa.string()),
        ("prompt_id", pa.string()),
        ("replicate", pa.int64()),
        ("image_digest", pa.string()),
        ("storyboard", pa.string()),  # "" for what is no frame
    ]
)


def write_pictures(sets: Mapping[str, Iterable[GeneratedImage]], folder: Path) -> None:
    """Which pictures there were, scored or not."""
    rows = [
        {
            "model_id": model_id,
            "prompt_id": image.prompt_id,
            "replicate": image.replicate,
            "image_digest": image.identity,
            "storyboard": image.storyboard,
        }
        for model_id, images in sets.items()
        for image in images
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=PICTURES_SCHEMA), folder / PICTURES, compression="zstd")


def read_pictures(folder: Path) -> dict[str, dict[tuple[str, int], str]]:
    """Model -> (prompt id, replicate) -> digest."""
    found: dict[str, dict[tuple[str, int], str]] = {}
    for row in _pictures(folder):
        found.setdefault(row["model_id"], {})[row["prompt_id"], row["replicate"]] = row["image_digest"]
    return found


def read_storyboards(folder: Path) -> dict[str, str]:
    """Prompt id -> its storyboard, of those that are frames."""
    return {row["prompt_id"]: row["storyboard"] for row in _pictures(folder) if row["storyboard"]}


def _pictures(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / PICTURES, schema=PICTURES_SCHEMA).to_pylist()
    return rows
