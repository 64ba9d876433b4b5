"""The identity of a dataset's content, to know without decoding anything whether it has been prepared before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from sdxl_core.config import DatasetConfig
from sdxl_core.data.mask_files import mask_files
from sdxl_core.data.sources import SOURCES
from sdxl_core.data.sources.base import DigestFiles, digest_names


def dataset_fingerprint(config: DatasetConfig, digest_files: DigestFiles) -> str:
    """Hex digest of the names and bytes of all that the dataset is read from.

    Where the dataset lies and when its files were touched do not matter, nor do files that the source does not read.
    Masks of a folder belong to it. A hub dataset is identified by its id, split and commit. The other fields of
    `config` (columns, prompt, policy) are not part of this: they belong into a key beside it.

    Args:
        config: which dataset.
        digest_files: digests of files' bytes, one after the other; may be memoised by the caller.

    Raises:
        UserError: the dataset is not there.
    """
    digest = hashlib.sha256(f"[{json.dumps(config.source)}, ".encode())
    _add(digest, SOURCES[config.source].identity(config, digest_files))
    if (masks := mask_files(config)) is not None:
        digest.update(b", ")
        _add(digest, digest_names(*masks, digest_files))
    digest.update(b"]")
    return digest.hexdigest()


def _add(digest: hashlib._Hash, pairs: Iterable[tuple[str, str]]) -> None:
    """What `json.dumps` writes for a list of pairs, without the list."""
    begun = False
    digest.update(b"[")
    for pair in pairs:
        digest.update((", " if begun else "").encode() + json.dumps(pair).encode())
        begun = True
    digest.update(b"]")
