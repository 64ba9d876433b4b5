"""A folder of sub-folders, one a concept: its prompt is in its `prompt.txt`, or else is its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from sdxl_core.config import DatasetConfig
from sdxl_core.data.sources.base import (
    DigestFiles,
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

PROMPT = "prompt.txt"


def listing(config: DatasetConfig) -> Listing:
    folder = open_folder(config)
    count = sum(1 for _ in _entries(folder, config.prompt))  # pictures of a refused concept are no entries
    return Listing(len(folder.problems) + count, chain(folder.problems, _entries(folder, config.prompt)))


def identity(config: DatasetConfig, digest_files: DigestFiles) -> Iterable[tuple[str, str]]:
    folder = open_folder(config)
    prompts = sorted({f"{_concept(name)}/{PROMPT}" for name in folder.pictures} & set(folder.files))
    return digest_names(folder.root, [*folder.pictures, *prompts], digest_files)


def _entries(folder: Folder, fallback: str | None) -> Iterator[Entry]:
    files, prompts = frozenset(folder.files), dict[str, str]()
    refused = set[str]()
    for name in folder.pictures:
        concept = _concept(name)
        if concept is None:
            yield Problem(name, "in no concept; put it into a sub-folder named by its prompt")
            continue
        if concept not in prompts and concept not in refused:
            try:
                prompts[concept] = _prompt(folder, files, concept, fallback)
            except ValueError as error:
                refused.add(concept)
                yield Problem(f"{concept}/{PROMPT}", str(error), always_refused=True)
        if concept in prompts:
            yield Row(name, folder.root / name, prompts[concept], concept)


def _prompt(folder: Folder, files: frozenset[str], concept: str, fallback: str | None) -> str:
    name = f"{concept}/{PROMPT}"
    return caption_from(read_caption_file(folder.root / name) if name in files else concept, fallback)


def _concept(name: str) -> str | None:
    """`dog/poses/1.png` -> `dog`; None for a picture outside all sub-folders."""
    concept, slash, _ = name.partition("/")
    return concept if slash else None
