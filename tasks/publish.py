"""`prepare-dataset push`: the dataset that a configuration prepares, as a folder or on the hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sdxl_core.data.fingerprint import dataset_fingerprint
from tasks import dataset
from tasks.config import PipelineConfig
from tasks.errors import ConfigError
from tasks.mirrors import found_here
from tasks.stage import materialise


def push_dataset(config: PipelineConfig, repo: str | None, *, private: bool, to: Path | None) -> str:
    """Prepare the dataset, or reuse it, and write it to the folder `to` or upload it to `repo`; returns where it is.

    Raises:
        UserError: bad pictures, a folder that is not empty, nobody logged in, or a hub that refuses.
    """
    from sdxl_core.data.publish import require_token, upload, write_imagefolder

    if (repo is None) == (to is None):
        raise ConfigError("prepare-dataset push: expected one of --repo user/name and --to FOLDER")
    if repo is not None:
        if len(repo.split("/")) != 2 or not all(repo.split("/")):
            raise ConfigError.about("--repo", expected="user/name", got=repr(repo))
        require_token()
    if config.dataset.drawn is not None:
        raise ConfigError("prepare-dataset push: expected a dataset that is found, got dataset.source = drawn")
    store = config.runtime.open_store()
    here, _ = found_here(config.dataset, store)
    fingerprint = dataset_fingerprint(here, store.digest_file.many)
    ref = materialise(dataset.prepare(here, fingerprint), store, config.runtime.device)
    if to is not None:
        write_imagefolder(store.path(ref), to, config.name)
        return str(to)
    assert repo is not None
    with tempfile.TemporaryDirectory(prefix="sdxl-flows-push-") as folder:
        write_imagefolder(store.path(ref), Path(folder), config.name)
        return upload(Path(folder), repo, private=private)
