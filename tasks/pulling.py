"""What is in production, brought to a machine that uses it: a folder of its own, whatever becomes of the store's.

FOLDER/production -> versions/<n>     replaced in one step
FOLDER/versions/<n>/                  the release, with its manifest; that of before stays for who still reads it
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sdxl_core.disk import flush, naming_a_full_disk, require_writable
from tasks.errors import ConfigError
from tasks.locks import held
from tasks.manifest import MANIFEST, Manifest, problems
from tasks.model_folder import replace_link
from tasks.registry import Registry, require_release
from tasks.versions import PRODUCTION, Version

_KEPT = 2
"""Versions in the folder: the one in production, and the one that was before."""


@dataclass(frozen=True)
class Pulled:
    """What is in production in a folder now."""

    model: str
    version: Version
    path: Path

    def told(self) -> str:
        """A line of JSON."""
        release = self.version.release
        told = {"model": self.model, "version": self.version.number, "release": str(release), "path": str(self.path)}
        return json.dumps(told | {"digest": release.digest})


def pull_production(registry: Registry, name: str, folder: Path) -> Pulled:
    """Bring a model's version in production into a folder, and set its link `production` to it.

    Every byte of a version that was not there before is compared with its manifest.

    Raises:
        ConfigError: nothing is in production, its release is not in the store whole, or the folder has something else.
        UserError: the folder cannot be written, or the disk is full.
    """
    version = registry.require(name)
    link = folder / PRODUCTION
    if link.exists() and not link.is_symlink():
        raise ConfigError.about("--to", expected="an empty folder, or one that was pulled to", got=f"{link}, no link")
    require_writable(folder)
    with held(folder / ".pull.lock", lambda holder: None):
        target = folder / "versions" / str(version.number)
        if not _is_there(target, version):
            _bring(registry, name, version, target)
        before = os.readlink(link) if link.is_symlink() else ""
        if before != f"versions/{version.number}":
            replace_link(link, Path("versions") / str(version.number))
            _clear(target.parent, {str(version.number), Path(before).name})
    return Pulled(name, version, target.absolute())


def _bring(registry: Registry, name: str, version: Version, target: Path) -> None:
    """Copied, since what a store has copies of goes when nothing in the store needs it."""
    store, release = registry.store, version.release
    place = store.path(release)
    require_release(store, f"{name}@{version.number}", release)
    manifest = store.manifest(release.kind, release.key)
    assert manifest is not None
    staging = target.with_name(f".{target.name}.arriving")
    shutil.rmtree(staging, ignore_errors=True)
    staging.parent.mkdir(exist_ok=True)
    with naming_a_full_disk(target.parent, manifest.total_bytes):
        shutil.copytree(place, staging)
    if found := problems(staging, manifest, deep=True):
        raise ConfigError(f"{name}@{version.number}: {found[0]} in {target.parent}; is that disk sound?")
    for path in (*staging.rglob("*"), staging):
        flush(path)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(staging, target)
    flush(target.parent)


def _is_there(target: Path, version: Version) -> bool:
    """Whether this very release is, with every file at its size."""
    try:
        manifest = Manifest.model_validate_json((target / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return False
    return manifest.ref == version.release and not problems(target, manifest, deep=False)


def _clear(versions: Path, kept: set[str]) -> None:
    """Remove what was in production longer ago."""
    assert len(kept) <= _KEPT
    for path in versions.iterdir():
        if path.name not in kept and (path / MANIFEST).is_file():
            shutil.rmtree(path)
