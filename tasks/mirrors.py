"""Datasets that lie in buckets: mirrored into the store before anything looks at them, then folders like any other."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from sdxl_core.config import DatasetConfig
from sdxl_core.urls import is_url
from tasks.locks import held
from tasks.progress import stage_progress
from tasks.store import ArtifactStore

_LOG = logging.getLogger("sdxl_flows")


def mirror_home(store: ArtifactStore, url: str) -> Path:
    return store.root / "mirrors" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:32]


def found_here(dataset: DatasetConfig, store: ArtifactStore) -> tuple[DatasetConfig, dict[str, str]]:
    """The dataset with mirrors in place of URLs, and the URL of each mirror's path.

    Raises:
        UserError: what is there cannot be listed or read.
    """
    urls, changes = {}, {}
    for setting in ("path", "validation_path"):
        url = getattr(dataset, setting)
        if is_url(url):
            changes[setting] = str(_mirrored(url, store, f"dataset.{setting}"))
            urls[changes[setting]] = url
    return dataset.model_copy(update=changes), urls


def _mirrored(url: str, store: ArtifactStore, setting: str) -> Path:
    from sdxl_core.data.mirror import mirror

    home = mirror_home(store, url)
    home.mkdir(parents=True, exist_ok=True)

    def waiting(holder: str) -> None:
        _LOG.warning("%s: %s is being read by %s; waiting for it", setting, url, holder)

    with held(store.lock_path("mirror", home.name), waiting), stage_progress("mirror", publish=False) as progress:
        found = mirror(url, home, setting, progress)
        os.utime(home)  # so that garbage collection can go by last use
    _LOG.info("%-22s %s: %d read, %d unchanged, %d gone", "mirror", url, found.read, found.kept, found.removed)
    return found.path
