"""Prompts of a dataset of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sdxl_core.errors import UserError
from sdxl_core.prompt_sets.rows import WHERE


def hub_rows(
    dataset: str, split: str, revision: str | None, columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, those columns) of every row, in order. Rows are streamed: nothing of them is kept on disk.

    Raises:
        UserError: there is no such dataset, split or column, or the hub cannot be reached.
    """
    from datasets import load_dataset

    where = f"{WHERE}: dataset {dataset}, split {split}"
    try:
        table = load_dataset(dataset, split=split, revision=revision, streaming=True).select_columns(list(columns))
        for number, row in enumerate(table):
            yield f"{where}, row {number}", row
    except Exception as error:  # hub, cache, builder and file readers each raise their own
        raise UserError.about(
            where,
            expected=f"a dataset of the hub with {' and '.join(columns)}",
            got=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
            fix="Without the hub, give the path of a local file, which begins with ./",
        ) from error
