"""The identity of a dataset's content, to know without decoding anything whether it has been prepared before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from sdxl_core.config import DatasetConfig
from sdxl_core.data.mask_files import mask_files
from sdxl_core.data.sources import SOURCES
from sdxl_core.data.sources.base import digest_names


def dataset_fingerprint(config: DatasetConfig, digest_file: Callable[[Path], str]) -> str:
    """Hex digest of the names and bytes of all that the dataset is read from.

    Where the dataset lies and when its files were touched do not matter, nor do files that the source does not read.
    Masks of a folder belong to it. A hub dataset is identified by its id, split and commit. The other fields of
    `config` (columns, prompt, policy) are not part of this: they belong into a key beside it.

    Args:
        config: which dataset.
        digest_file: digest of a file's bytes; may be memoised by the caller.

    Raises:
        UserError: the dataset is not there.
    """
    content: list[object] = [config.source, SOURCES[config.source].identity(config, digest_file)]
    if (masks := mask_files(config)) is not None:
        content.append(digest_names(*masks, digest_file))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
