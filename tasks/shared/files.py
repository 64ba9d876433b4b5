"""Files as objects: a big one in parts, several at a time, and nothing again that is there already."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.ahead import in_order
from sdxl_core.disk import file_sha256, flush, naming_a_full_disk, require_room
from tasks.manifest import FileRecord
from tasks.shared.objects import Objects

_LOG = logging.getLogger("sdxl_flows.store")
PART_BYTES = 32 * 1024 * 1024
_TELL_EVERY_S = 10.0


class Torn(Exception):
    """The shared store says that there is something, and has not what it says."""


@dataclass(frozen=True)
class FileSet:
    """Files below a folder of this machine, and what each is called in the shared store."""

    label: str
    """For people."""
    files: Mapping[str, FileRecord]
    """By name relative to the folder."""
    name_of: Callable[[str], str]
    """The object that is a file, or the folder of its parts."""

    def parts(self) -> Iterator[Part]:
        for file, record in self.files.items():
            name = self.name_of(file)
            if record.bytes <= PART_BYTES:
                yield Part(name, file, 0, record.bytes)
                continue
            for number, start in enumerate(range(0, record.bytes, PART_BYTES)):
                yield Part(f"{name}/{number:05d}", file, start, min(PART_BYTES, record.bytes - start))


def problems(objects: Objects, wanted: FileSet) -> list[str]:
    """What is wrong with files that are there, every byte of which is read and none kept. Raises as `Objects` does."""
    parts: dict[str, list[Part]] = {}
    for part in wanted.parts():
        parts.setdefault(part.file, []).append(part)

    def problem(file: str) -> str:
        digest = hashlib.sha256()
        for part in parts[file]:
            data = objects.read(part.name)
            if data is None:
                return f"{part.name} is missing"
            digest.update(data)
        return "" if digest.hexdigest() == wanted.files[file].sha256 else f"{file} holds other bytes than were written"

    return [found for found in in_order(problem, parts) if found]


@dataclass(frozen=True)
class Part:
    """A piece of a file, an object of its own."""

    name: str
    file: str
    start: int
    bytes: int


def send(objects: Objects, wanted: FileSet, folder: Path, there: Mapping[str, int]) -> None:
    """Put files there. `there`: sizes of the objects that are there already. Raises as `Objects` does."""
    parts = [part for part in wanted.parts() if there.get(part.name) != part.bytes]
    told = _Told(f"{wanted.label}: to {objects.url}", sum(part.bytes for part in parts))

    def put(part: Part) -> None:
        with (folder / part.file).open("rb") as file:
            file.seek(part.start)
            objects.write(part.name, file.read(part.bytes))
        told.add(part.bytes)

    objects.each(put, parts)
    told.end()


def fetch(objects: Objects, wanted: FileSet, folder: Path) -> None:
    """Fill a folder, which may have some of the files, with all of them, on the disk when this returns.

    Raises:
        Torn: something is not there, or not what it should be; what is not is gone from the folder.
        DiskFullError: there is no room.
        StoreError, StoreAway: as `Objects` does.
    """
    files = {name: record for name, record in wanted.files.items() if not _is_whole(folder / name, record)}
    require_room(folder.parent, sum(record.bytes for record in files.values()), f"a copy of {wanted.label}")
    got = {name: _Arriving(folder / name) for name in files}
    parts = [part for part in wanted.parts() if part.file in files and part.start not in got[part.file].starts]
    told = _Told(f"{wanted.label}: from {objects.url}", sum(part.bytes for part in parts))

    def get(part: Part) -> None:
        data = objects.read(part.name)
        if data is None or len(data) != part.bytes:
            raise Torn(f"{part.name} is {'missing' if data is None else 'of another size'}")
        with naming_a_full_disk(folder, part.bytes):
            got[part.file].write(part.start, data)
        told.add(part.bytes)

    objects.each(get, parts)
    told.end()
    bad = [name for name in in_order(lambda name: got[name].finished(files[name]), files) if name]
    if bad:
        raise Torn(f"{bad[0]} holds other bytes than were written")
    for inside in {(folder / name).parent for name in files}:
        flush(inside)


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


def _is_whole(path: Path, record: FileRecord) -> bool:
    return path.is_file() and path.stat().st_size == record.bytes and file_sha256(path) == record.sha256
