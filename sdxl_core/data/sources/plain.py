"""A folder of pictures that all have the one prompt of the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from sdxl_core.config import DatasetConfig
from sdxl_core.data.sources.base import DigestFiles, Listing, Row, caption_from, digest_names, open_folder
from sdxl_core.errors import UserError


def listing(config: DatasetConfig) -> Listing:
    try:
        text = caption_from(config.prompt, None)
    except ValueError as error:
        raise UserError.about(
            "dataset.prompt",
            expected="the caption of all pictures (dataset.source is prompt)",
            got=error,
            fix="Give a prompt such as `a photo of sks dog`",
        ) from None
    folder = open_folder(config)
    entries = (Row(name, folder.root / name, text) for name in folder.pictures)
    return Listing(len(folder.problems) + len(folder.pictures), chain(folder.problems, entries))


def identity(config: DatasetConfig, digest_files: DigestFiles) -> Iterable[tuple[str, str]]:
    folder = open_folder(config)
    return digest_names(folder.root, folder.pictures, digest_files)
