"""A folder of pictures, each with its caption in a `.txt` of the same name beside it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from itertools import chain
from pathlib import Path

from sdxl_core.config import DatasetConfig
from sdxl_core.data.sources.base import (
    DigestFiles,
    Entry,
    Listing,
    Problem,
    Row,
    caption_from,
    digest_names,
    open_folder,
    read_caption_file,
)


def listing(config: DatasetConfig) -> Listing:
    folder = open_folder(config)
    files = frozenset(folder.files)
    entries = (_entry(folder.root, name, files, config.prompt) for name in folder.pictures)
    return Listing(len(folder.problems) + len(folder.pictures), chain(folder.problems, entries))


def identity(config: DatasetConfig, digest_files: DigestFiles) -> Iterable[tuple[str, str]]:
    folder = open_folder(config)
    captions = {_caption_name(name) for name in folder.pictures} & set(folder.files)
    return digest_names(folder.root, [*folder.pictures, *sorted(captions)], digest_files)


def _entry(root: Path, name: str, files: Collection[str], fallback: str | None) -> Entry:
    caption_name = _caption_name(name)
    try:
        text = read_caption_file(root / caption_name) if caption_name in files else None
        return Row(name, root / name, caption_from(text, fallback))
    except ValueError as error:
        return Problem(name, f"{error} ({caption_name})")


def _caption_name(name: str) -> str:
    return os.path.splitext(name)[0] + ".txt"
