"""A folder with `metadata.jsonl`: one JSON object a line, with a picture's file name and its caption."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sdxl_core.config import DatasetConfig
from sdxl_core.data.sources.base import (
    DigestFile,
    Entry,
    Folder,
    Listing,
    Problem,
    Row,
    caption_from,
    confine,
    digest_names,
    open_folder,
    require_column,
)
from sdxl_core.data.sources.columns import cells_from, require_columns
from sdxl_core.errors import UserError, did_you_mean

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Line:
    """One object of a metadata file."""

    where: str
    values: dict[str, Any]


def listing(config: DatasetConfig) -> Listing:
    folder = open_folder(config)
    if METADATA not in folder.files:
        raise UserError.about(
            f"dataset.path {folder.root}",
            expected=f"a {METADATA} in it",
            got="none",
            fix="Write one with `sdxl-flows make-metadata DIR --prompt ...`, or choose another dataset.source",
        )
    lines, broken = read_metadata(folder.root / METADATA)
    image_column, columns = config.image_column or "file_name", {key for line in lines for key in line.values}
    if lines:
        require_column("image_column", image_column, columns, METADATA)
    if lines:
        require_columns(config, columns, METADATA)
    entries = [*folder.problems, *broken, *_entries(folder, lines, image_column, config)]
    return Listing(len(entries), entries)


def identity(config: DatasetConfig, digest_file: DigestFile) -> list[tuple[str, str]]:
    folder = open_folder(config)
    return digest_names(folder.root, _read_names(folder, config), digest_file)


def read_metadata(path: Path) -> tuple[list[Line], list[Problem]]:
    """The objects of a metadata file, and the lines that are none.

    Raises:
        UserError: the file is not UTF-8.
    """
    lines, broken = [], []
    try:
        texts = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError.about(str(path), expected="UTF-8 text", got=f"other bytes at {error.start}") from None
    for number, text in enumerate(texts, start=1):
        where = f"{path.name}:{number}"
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            broken.append(Problem(where, f"not JSON: {error}", always_refused=True))
            continue
        if isinstance(values, dict):
            lines.append(Line(where, values))
        else:
            broken.append(Problem(where, f"expected an object, got {text.strip():.60}", always_refused=True))
    return lines, broken


def _entries(folder: Folder, lines: list[Line], image_column: str, config: DatasetConfig) -> Iterator[Entry]:
    files, first_line = frozenset(folder.files), dict[str, str]()
    for line in lines:
        value = line.values.get(image_column)
        try:
            path = confine(folder.root, value)
        except ValueError as error:
            yield Problem(line.where, f"{image_column} {value!r}: {error}", always_refused=True)
            continue
        name = PurePosixPath(str(value)).as_posix()
        if name in first_line:
            yield Problem(line.where, f"{name} is already listed at {first_line[name]}")
            continue
        first_line[name] = line.where
        if name not in files:
            yield Problem(line.where, f"{name}: no such file. {did_you_mean(name, folder.pictures)}".strip())
            continue
        try:
            text = caption_from(line.values.get(config.caption_column), config.prompt)
            yield Row(name, path, text, **cells_from(line.values, config))
        except ValueError as error:
            yield Problem(line.where, f"{name}: {error}")
    for name in folder.pictures:
        if name not in first_line:
            yield Problem(name, f"not listed in {METADATA}; `sdxl-flows make-metadata DIR --extend` adds it")


def _read_names(folder: Folder, config: DatasetConfig) -> list[str]:
    """The metadata file, all pictures, and whatever else the metadata lists."""
    if METADATA not in folder.files:
        return list(folder.pictures)
    lines, _ = read_metadata(folder.root / METADATA)
    values = (line.values.get(config.image_column or "file_name") for line in lines)
    listed = {PurePosixPath(value).as_posix() for value in values if isinstance(value, str)}
    return sorted({METADATA, *folder.pictures, *(listed & set(folder.files))})
