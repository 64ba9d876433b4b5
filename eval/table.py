"""The long table of scores: one row for each picture (or pair) and metric."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCORES = "scores.parquet"
SCHEMA = pa.schema(
    [
        ("image_digest", pa.string()),  # of a pair: both, joined by "+"
        ("prompt_id", pa.string()),
        ("seed", pa.int64()),
        ("replicate", pa.int64()),
        ("model_id", pa.string()),  # base, candidate or pair
        ("metric_id", pa.string()),
        ("value", pa.float64()),  # NaN: not scored
        ("reason", pa.string()),  # why not; "" where scored
    ]
)


@dataclass(frozen=True)
class Row:
    image_digest: str
    prompt_id: str
    seed: int
    replicate: int
    model_id: str
    metric_id: str
    value: float
    reason: str = ""

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
