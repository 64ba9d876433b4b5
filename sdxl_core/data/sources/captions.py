"""A folder of pictures, each with its caption in a `.txt` of the same name beside it."""

from __future__ import annotations

from pathlib import PurePosixPath

from sdxl_core.config import DatasetConfig
from sdxl_core.data.sources.base import (
    DigestFile,
    Entry,
    Folder,
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
    entries = [*folder.problems, *(_entry(folder, name, config.prompt) for name in folder.pictures)]
    return Listing(len(entries), entries)


def identity(config: DatasetConfig, digest_file: DigestFile) -> list[tuple[str, str]]:
    folder = open_folder(config)
    captions = {_caption_name(name) for name in folder.pictures} & set(folder.files)
    return digest_names(folder.root, [*folder.pictures, *sorted(captions)], digest_file)


def _entry(folder: Folder, name: str, fallback: str | None) -> Entry:
    caption_name = _caption_name(name)
    try:
        text = read_caption_file(folder.root / caption_name) if caption_name in folder.files else None
        return Row(name, folder.root / name, caption_from(text, fallback))
    except ValueError as error:
        return Problem(name, f"{error} ({caption_name})")


def _caption_name(name: str) -> str:
    return PurePosixPath(name).with_suffix(".txt").as_posix()
