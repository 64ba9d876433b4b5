"""Artifacts in the shared store, and their way there and back.

artifacts/<kind>/<key>/manifest.json        written last, and once: an artifact without it does not exist
artifacts/<kind>/<key>/<16 hex>/<file>      what the manifest names; the folder is called by the digests of its files

So machines that build the same at the same time write beside each other, the first to be done is the artifact, and no
manifest ever stands for another one's files. A file of more than `PART_BYTES` is a folder of parts. What is there
already is neither written nor read again: an interrupted way goes on where it was.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from sdxl_core.ahead import in_order
from sdxl_core.disk import file_sha256, flush, naming_a_full_disk, require_room
from tasks.digests import digest_json
from tasks.errors import StoreAway
from tasks.manifest import MANIFEST, FileRecord, Manifest, content_digest
from tasks.shared.objects import Objects

_LOG = logging.getLogger("sdxl_flows.store")
PART_BYTES = 32 * 1024 * 1024
_TELL_EVERY_S = 10.0


class Torn(Exception):
    """The shared store has a manifest, and not what it names."""


@dataclass(frozen=True)
class _Part:
    """A piece of a file, an object of its own."""

    name: str
    file: str
    start: int
    bytes: int


class Copies:
    """Raises, wherever it reads or writes, what `Objects` does."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def manifest(self, kind: str, key: str) -> Manifest | None:
        """
        Raises:
            Torn: what is there is no manifest, or another artifact's.
        """
        data = self._objects.read(f"{_place(kind, key)}/{MANIFEST}")
        return None if data is None else parsed(data, kind, key)

    def manifests(self, wanted: list[tuple[str, str]]) -> Iterator[Manifest]:
        """Those of these kinds and keys that are there, and read."""
        names = {f"{_place(kind, key)}/{MANIFEST}": (kind, key) for kind, key in wanted}
        for name, data in self._objects.read_all(names).items():
            try:
                yield parsed(data, *names[name])
            except Torn as error:
                _LOG.warning("%s: %s", name, error)

    def keys(self, kind: str = "*") -> list[tuple[str, str]]:
        """Kinds and keys of all that is there, whole or not."""
        kinds = [kind] if kind != "*" else [place.rpartition("/")[2] for place in self._objects.listed("artifacts")]
        places = [place for each in kinds for place in self._objects.listed(f"artifacts/{each}")]
        return [(place.split("/")[1], place.split("/")[2]) for place in places]

    def missing(self, manifest: Manifest) -> list[str]:
        """What a manifest names that is not there, or not of its size."""
        there = self._objects.sizes(_folder(manifest))
        return [part.name for part in _parts(manifest) if there.get(part.name) != part.bytes]

    def push(self, manifest: Manifest, folder: Path) -> Manifest:
        """Put an artifact there; returns the manifest that is there then, which may be another machine's."""
        there = self._objects.sizes(_folder(manifest))
        parts = [part for part in _parts(manifest) if there.get(part.name) != part.bytes]
        told = _Told(f"{manifest.label}: to {self._objects.url}", sum(part.bytes for part in parts))

        def send(part: _Part) -> None:
            with (folder / part.file).open("rb") as file:
                file.seek(part.start)
                self._objects.write(part.name, file.read(part.bytes))
            told.add(part.bytes)

        self._objects.each(send, parts)
        told.end()
        name = f"{_place(manifest.recipe.kind, manifest.key)}/{MANIFEST}"
        if self._objects.create(name, (folder / MANIFEST).read_bytes()):
            return manifest
        found = self.manifest(manifest.recipe.kind, manifest.key)
        if found is None:
            raise StoreAway(f"{self._objects.url}: {name} went while it was written")
        return found

    def pull(self, manifest: Manifest, folder: Path) -> None:
        """Fill a folder, which may have a part of it, with an artifact, on the disk when this returns.

        Raises:
            Torn: something is not there, or not what the manifest says; what is not is gone from the folder.
            DiskFullError: there is no room.
        """
        files = {name: record for name, record in manifest.files.items() if not _is_whole(folder / name, record)}
        require_room(folder.parent, sum(record.bytes for record in files.values()), f"a copy of {manifest.label}")
        got = {name: _Arriving(folder / name) for name in files}
        parts = [part for part in _parts(manifest) if part.file in files and part.start not in got[part.file].starts]
        told = _Told(f"{manifest.label}: from {self._objects.url}", sum(part.bytes for part in parts))

        def fetch(part: _Part) -> None:
            data = self._objects.read(part.name)
            if data is None or len(data) != part.bytes:
                raise Torn(f"{part.name} is {'missing' if data is None else 'of another size'}")
            with naming_a_full_disk(folder, part.bytes):
                got[part.file].write(part.start, data)
            told.add(part.bytes)

        self._objects.each(fetch, parts)
        told.end()
        bad = [name for name in in_order(lambda name: got[name].finished(files[name]), files) if name]
        if bad:
            raise Torn(f"{bad[0]} holds other bytes than were written")
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        for inside in (folder / MANIFEST, *{(folder / name).parent for name in manifest.files}, folder):
            flush(inside)

    def remove(self, kind: str, key: str) -> None:
        """The manifest first."""
        place = _place(kind, key)
        self._objects.remove([f"{place}/{MANIFEST}"])
        self._objects.remove(self._objects.sizes(place))

    def set_aside(self, kind: str, key: str) -> str:
        """Take away the manifest of what is not whole, so that it is built again; returns where it lies now."""
        name, aside = f"{_place(kind, key)}/{MANIFEST}", f"damaged/{kind}-{key}-{time.time_ns()}.json"
        if (data := self._objects.read(name)) is not None:
            self._objects.write(aside, data)
            self._objects.remove([name])
        return f"{self._objects.url}/{aside}"


def parsed(data: bytes, kind: str, key: str) -> Manifest:
    """
    Raises:
        Torn: it is none, or another artifact's, or names what cannot be in a folder.
    """
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError:
        raise Torn(f"{MANIFEST} is unreadable") from None
    if (manifest.recipe.kind, manifest.key, manifest.digest) != (kind, key, content_digest(manifest.files)):
        raise Torn(f"{MANIFEST} describes something else")
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or path.as_posix() != name or ".." in path.parts or name == MANIFEST or "\0" in name:
            raise Torn(f"{MANIFEST} names {name!r}, which is no file of an artifact")
    return manifest


class _Arriving:
    """A file that comes in parts; beside it is written which have come."""

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        self._come = path.with_name(f"{path.name}.come")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self.starts: set[int] = set()
        if self._part.exists() and self._come.exists():
            self.starts = {int(line) for line in self._come.read_text().splitlines() if line.isdigit()}
        self._part.touch()

    def write(self, start: int, data: bytes) -> None:
        with self._part.open("r+b") as file:
            file.seek(start)
            file.write(data)
        with self._lock, self._come.open("a") as come:
            come.write(f"{start}\n")

    def finished(self, record: FileRecord) -> str:
        """Put the file into its place; or remove it and return its name where it is not what was written."""
        flush(self._part)
        whole = self._part.stat().st_size == record.bytes and file_sha256(self._part) == record.sha256
        self._come.unlink(missing_ok=True)
        if not whole:
            self._part.unlink()
            return self._path.name
        os.replace(self._part, self._path)
        return ""


class _Told:
    """Says now and then how far many bytes have come."""

    def __init__(self, what: str, total_bytes: int) -> None:
        self._what, self._total_bytes = what, total_bytes
        self._begun = self._last = time.monotonic()
        self._done_bytes = 0
        self._lock = threading.Lock()

    def add(self, some_bytes: int) -> None:
        with self._lock:
            self._done_bytes += some_bytes
            now = time.monotonic()
            if now - self._last < _TELL_EVERY_S:
                return
            self._last = now
            rate = self._done_bytes / (now - self._begun)
            left = (self._total_bytes - self._done_bytes) / rate
        done, total = self._done_bytes / 1e6, self._total_bytes / 1e6
        _LOG.info("%s: %.0f of %.0f MB · %.3g MB/s · %.0f s left", self._what, done, total, rate / 1e6, left)

    def end(self) -> None:
        if self._done_bytes:
            seconds = time.monotonic() - self._begun
            _LOG.info("%s: %.3g MB in %.1f s", self._what, self._done_bytes / 1e6, seconds)


def _parts(manifest: Manifest) -> Iterator[_Part]:
    folder = _folder(manifest)
    for file, record in manifest.files.items():
        if record.bytes <= PART_BYTES:
            yield _Part(f"{folder}/{file}", file, 0, record.bytes)
            continue
        for number, start in enumerate(range(0, record.bytes, PART_BYTES)):
            yield _Part(f"{folder}/{file}/{number:05d}", file, start, min(PART_BYTES, record.bytes - start))


def _is_whole(path: Path, record: FileRecord) -> bool:
    return path.is_file() and path.stat().st_size == record.bytes and file_sha256(path) == record.sha256


def _folder(manifest: Manifest) -> str:
    """Of its files: by all their digests, those of logs too, so that it never holds another build's."""
    name = digest_json({name: record.sha256 for name, record in manifest.files.items()})[:16]
    return f"{_place(manifest.recipe.kind, manifest.key)}/{name}"


def _place(kind: str, key: str) -> str:
    return f"artifacts/{kind}/{key}"
