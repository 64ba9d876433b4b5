"""The artifact store: a folder of immutable, content-addressed results. It is the truth; Prefect's records index it.

artifacts/<kind>/<key>/   files and manifest.json, written once
work/<kind>/<key>/        what an unfinished stage can resume from; survives kills, goes when the stage is done
staging/                  results on their way in; never read
damaged/                  what failed its check, set aside
cells/<name>/             small cached values
locks/, mirrors/, digests.sqlite, runs/, prefect/
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sdxl_core.disk import flush
from sdxl_core.urls import is_url
from tasks.cells import DiskCells
from tasks.digests import FileDigests
from tasks.errors import StoreError
from tasks.file_systems import is_remote, own_memo
from tasks.locks import held, held_if_free
from tasks.manifest import (
    MANIFEST,
    Json,
    Manifest,
    Recipe,
    Ref,
    content_digest,
    library_versions,
    problems,
    seal,
)
from tasks.shared.objects import Objects

_LOG = logging.getLogger("sdxl_flows.store")
DEFAULT_ROOT = ".sdxl-flows"
Verify = Literal["auto", "sizes", "digests"]
_read_whole: set[tuple[Path, str, str, str]] = set()
"""Root, kind, key and content digest of what this process has written, or read and found whole."""


def store_root(named: str | None = None, cache: str | None = None) -> Path:
    """The folder on this machine, absolute: the one named, else that of SDXL_FLOWS_STORE, else `.sdxl-flows` here.

    Where that is a URL, the folder of this machine's copies: `cache`, else SDXL_FLOWS_CACHE, else `.sdxl-flows` here.
    """
    if store_url(named) is not None:
        named = cache or os.environ.get("SDXL_FLOWS_CACHE") or DEFAULT_ROOT
    return Path(named or os.environ.get("SDXL_FLOWS_STORE") or DEFAULT_ROOT).expanduser().absolute()


def store_url(named: str | None = None) -> str | None:
    """Where the store is that others share, as `store_root` finds it; None where it is a folder."""
    place = named or os.environ.get("SDXL_FLOWS_STORE")
    return place if is_url(place) else None


def named_store(named: str | None = None) -> ArtifactStore:
    """The store named, else that of the environment, else the one here. Raises as `ArtifactStore.at` does."""
    return ArtifactStore.at(StorePlace(str(store_root(named)), "auto", store_url(named)))


class DamagedArtifact(Exception):
    """An artifact is there but not whole."""


@dataclass(frozen=True)
class StorePlace:
    """What another process needs to open the same store."""

    root: str
    verify: Verify
    url: str | None = None
    cache_bytes: int | None = None


@dataclass(frozen=True)
class Workplace:
    """Where a build works."""

    out: Path
    """Empty; what lies here when the build returns becomes the artifact."""
    work: Path
    """For what an interrupted build can resume from; kept until one succeeds."""
    lock: int
    """Descriptor of the artifact's lock. A child that inherits it holds off other builders until it ends."""


Build = Callable[[Workplace], dict[str, Json]]


class ArtifactStore:
    """Artifacts below one folder. `tasks.shared.store` has one that shares them with other machines.

    `verify` says how an artifact is looked at before it is used: by its files' sizes, or whole, by their digests, once
    in a process; `auto` reads it whole where the folder lies on a network file system.

    Raises:
        StoreError: the folder cannot be made or written.
    """

    objects: Objects | None = None
    """What is shared with other machines; None where the folder is all there is."""

    def __init__(self, root: Path, verify: Verify = "auto") -> None:
        self.root = root
        self.verify = verify
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"runtime.store: cannot make the folder {root}: {error.strerror}") from None
        if not os.access(root, os.W_OK):
            raise StoreError(f"runtime.store: {root} is not writable; set runtime.store or SDXL_FLOWS_STORE")
        remote = is_remote(root)
        self.digest_file = FileDigests(own_memo(root) if remote else root / "digests.sqlite")
        self._deep = verify == "digests" or (verify == "auto" and remote)

    @classmethod
    def at(cls, place: StorePlace) -> ArtifactStore:
        """The store of that place, of the kind that it is.

        Raises:
            StoreError: its folder cannot be made or written, or its URL is none that can be shared, or refuses us.
            StoreAway: its URL's place cannot be reached.
        """
        if place.url is None:
            return ArtifactStore(Path(place.root), place.verify)
        from tasks.shared.store import SharedStore

        return SharedStore(place)

    @property
    def place(self) -> StorePlace:
        return StorePlace(str(self.root), self.verify)

    def path(self, ref: Ref) -> Path:
        """The artifact's folder. A shared one is brought here first, which may raise as reading a file does."""
        return self._place(ref.kind, ref.key)

    def cells(self, name: str) -> DiskCells:
        return DiskCells(self.cells_path(name))

    def sharing_training(self, key: str, folder: Path) -> AbstractContextManager[None]:
        """While a training is under way in its folder, other machines get what they need to go on with it."""
        return nullcontext()

    def share_cells(self) -> None:
        """Let other machines have the cells that were computed by way of this object."""

    def cells_path(self, name: str) -> Path:
        return self.root / "cells" / name

    def lock_path(self, kind: str, key: str) -> Path:
        return self.root / "locks" / f"{kind}-{key}.lock"

    def work_path(self, kind: str, key: str) -> Path:
        return self.root / "work" / kind / key

    def manifest(self, kind: str, key: str) -> Manifest | None:
        """The manifest, or None where there is no artifact.

        Raises:
            DamagedArtifact: the folder is there, but its manifest is missing, unreadable or another artifact's.
        """
        place = self._place(kind, key)
        if not place.is_dir():
            return None
        try:
            manifest = Manifest.model_validate_json((place / MANIFEST).read_bytes())
        except (OSError, ValidationError):
            raise DamagedArtifact(f"{MANIFEST} is missing or unreadable") from None
        if (manifest.recipe.kind, manifest.key, manifest.digest) != (kind, key, content_digest(manifest.files)):
            raise DamagedArtifact(f"{MANIFEST} describes something else")
        return manifest

    def find(self, kind: str, key: str) -> Ref | None:
        """The artifact if it is there with every file at its size or, as `verify` says, of the bytes that were written.

        Raises:
            DamagedArtifact: it is there, but not whole.
        """
        manifest = self.manifest(kind, key)
        if manifest is None:
            return None
        known = (self.root, kind, key, manifest.digest)
        if found := problems(self._place(kind, key), manifest, deep=self._deep and known not in _read_whole):
            raise DamagedArtifact("; ".join(found[:3]))
        if self._deep:
            _read_whole.add(known)
        return manifest.ref

    def find_whole(self, kind: str, key: str) -> Ref | None:
        """Like `find`, with a damaged artifact counting as none."""
        try:
            return self.find(kind, key)
        except DamagedArtifact:
            return None

    def manifests(self, kind: str = "*") -> Iterator[Manifest]:
        """Every readable manifest, oldest first."""
        found = []
        for place in (self.root / "artifacts").glob(f"{kind}/*"):
            try:
                manifest = self.manifest(place.parent.name, place.name)
            except DamagedArtifact:
                continue
            if manifest is not None:
                found.append(manifest)
        return iter(sorted(found, key=lambda manifest: (manifest.created, manifest.key)))

    def places(self) -> list[tuple[str, str]]:
        """Kind and key of everything that has an artifact's place, whole or not."""
        return sorted((place.parent.name, place.name) for place in (self.root / "artifacts").glob("*/*"))

    def problems(self, manifest: Manifest) -> list[str]:
        """What is wrong with an artifact's files, every byte of which is read."""
        return problems(self._place(manifest.recipe.kind, manifest.key), manifest, deep=True)

    def summary(self, ref: Ref) -> dict[str, Json]:
        manifest = self.manifest(ref.kind, ref.key)
        return manifest.summary if manifest else {}

    def materialise(self, recipe: Recipe, label: str, build: Build) -> Ref:
        """Return the recipe's artifact, building it if it is not there whole.

        One process builds; others that want the same key wait and then reuse. A damaged artifact is set aside, named
        in the log, and built again.
        """
        kind, key = recipe.kind, recipe.key
        if (ref := self.find_whole(kind, key)) and self.is_shared(ref):
            return ref
        with held(self.lock_path(kind, key), say_waiting(label)) as lock:
            try:
                if ref := self.find(kind, key):
                    return self._share(ref)
            except DamagedArtifact as damage:
                self.set_aside(kind, key, str(damage))
            return self._by_one(kind, key, label, lambda: self._build(recipe, label, build, lock))

    def is_being_built(self, kind: str, key: str) -> bool:
        """Whether somebody seems to be at it now: for choosing what to do first."""
        with held_if_free(self.lock_path(kind, key)) as is_free:
            return not is_free

    def is_shared(self, ref: Ref) -> bool:
        """Whether all have an artifact who are to have it."""
        return True

    def remove(self, kind: str, key: str) -> None:
        """Delete an artifact: out of its place in one step, then from the disk."""
        leaving = self.root / "staging" / f"{kind}-{key}"
        shutil.rmtree(leaving, ignore_errors=True)
        leaving.parent.mkdir(exist_ok=True)
        os.rename(self._place(kind, key), leaving)
        shutil.rmtree(leaving)

    def _build(self, recipe: Recipe, label: str, build: Build, lock: int) -> Ref:
        kind, key = recipe.kind, recipe.key
        staging, work = self.root / "staging" / f"{kind}-{key}", self.work_path(kind, key)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        work.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            summary = build(Workplace(staging, work, lock))
            ref = self._commit(recipe, label, staging, summary, time.monotonic() - started)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            self.share_cells()
        shutil.rmtree(work, ignore_errors=True)
        return ref

    def _commit(self, recipe: Recipe, label: str, staging: Path, summary: dict[str, Json], seconds: float) -> Ref:
        """Digest and flush the files, write the manifest last, and rename the folder into its place."""
        files = seal(staging)
        manifest = Manifest(
            recipe=recipe,
            key=recipe.key,
            label=label,
            digest=content_digest(files),
            files=files,
            summary=summary,
            libraries=library_versions(),
            seconds=round(seconds, 3),
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        (staging / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        flush(staging / MANIFEST)
        flush(staging)
        place = self._place(manifest.recipe.kind, manifest.key)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(staging, place)
        flush(place.parent)
        self._note_whole(manifest.ref)
        return manifest.ref

    def set_aside(self, kind: str, key: str, reason: str) -> None:
        """Move a damaged artifact out of its place, so that the next run that needs it builds it again."""
        aside = self.root / "damaged"
        aside.mkdir(exist_ok=True)
        target = aside / f"{kind}-{key}-{time.time_ns()}"
        os.rename(self._place(kind, key), target)
        _LOG.warning("damaged artifact %s/%s (%s): set aside in %s, to be built again", kind, key, reason, target)

    def _share(self, ref: Ref) -> Ref:
        """Let all have an artifact that is here; returns the one that counts."""
        return ref

    def _by_one(self, kind: str, key: str, label: str, build: Callable[[], Ref]) -> Ref:
        """Build on one machine only."""
        return build()

    def _note_whole(self, ref: Ref) -> None:
        """Its bytes were seen to be those that were written."""
        _read_whole.add((self.root, ref.kind, ref.key, ref.digest))

    def _place(self, kind: str, key: str) -> Path:
        return self.root / "artifacts" / kind / key


def say_waiting(label: str) -> Callable[[str], None]:
    return lambda holder: _LOG.warning("%s: being built by %s; waiting for it", label, holder)
