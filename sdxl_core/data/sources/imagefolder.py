"""A folder with `metadata.jsonl`: one JSON object a line, with a picture's file name and its caption."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from sdxl_core.config import DatasetConfig
from sdxl_core.data.sources.base import (
    DigestFiles,
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
    image_column = config.image_column or "file_name"
    found = _survey(folder.root / METADATA, image_column)
    if found.lines:
        require_column("image_column", image_column, found.columns, METADATA)
        require_columns(config, found.columns, METADATA)
    unlisted = sum(name not in found.names for name in folder.pictures)
    total = len(folder.problems) + len(found.broken) + found.lines + unlisted
    return Listing(total, chain(folder.problems, found.broken, _entries(folder, image_column, config)))


def identity(config: DatasetConfig, digest_files: DigestFiles) -> Iterable[tuple[str, str]]:
    folder = open_folder(config)
    return digest_names(folder.root, _read_names(folder, config), digest_files)


def read_metadata(path: Path) -> Iterator[Line | Problem]:
    """The objects of a metadata file one by one, and a problem for each line that is none.

    Raises:
        UserError: the file is not UTF-8.
    """
    begin = 0
    with path.open("rb") as lines:  # only \n ends a line
        for number, data in enumerate(lines, start=1):
            try:
                text = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError.about(
                    str(path), expected="UTF-8 text", got=f"other bytes at {begin + error.start}"
                ) from None
            begin += len(data)
            if text.strip():
                yield _parsed(text, f"{path.name}:{number}")


def _lines(path: Path) -> Iterator[Line]:
    """Those that are objects."""
    return (line for line in read_metadata(path) if isinstance(line, Line))


def _parsed(text: str, where: str) -> Line | Problem:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Problem(where, f"not JSON: {error}", always_refused=True)
    if not isinstance(values, dict):
        return Problem(where, f"expected an object, got {text.strip():.60}", always_refused=True)
    return Line(where, values)


@dataclass
class _Survey:
    """What a metadata file is like, learned by reading it once."""

    lines: int
    columns: set[str]
    names: set[str]
    """Of the pictures listed."""
    broken: list[Problem]


def _survey(path: Path, image_column: str) -> _Survey:
    found = _Survey(0, set(), set(), [])
    for line in read_metadata(path):
        if isinstance(line, Problem):
            found.broken.append(line)
        else:
            found.lines += 1
            found.columns |= line.values.keys()
            found.names.add(PurePosixPath(str(line.values.get(image_column))).as_posix())
    return found


def _entries(folder: Folder, image_column: str, config: DatasetConfig) -> Iterator[Entry]:
    files, first_line = frozenset(folder.files), dict[str, str]()
    for line in _lines(folder.root / METADATA):
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
    values = (line.values.get(config.image_column or "file_name") for line in _lines(folder.root / METADATA))
    listed = {PurePosixPath(value).as_posix() for value in values if isinstance(value, str)}
    return sorted({METADATA, *folder.pictures, *(listed & set(folder.files))})
