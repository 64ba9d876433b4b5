"""Cells in the shared store, many to an object: a pack is what one machine has computed in a while.

cells/<name>/packs/<time>-<random>.pack   "pack1\\n", length of the index (8 bytes), index, cells

So a million cells are some thousand objects, that a machine finds by one listing; which cells a pack holds is read once
and remembered on this machine. A pack is never changed.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tasks.locks import open_lock, try_lock
from tasks.shared.objects import Objects

_MAGIC = b"pack1\n"
_HEAD = len(_MAGIC) + 8
_FIRST_READ = 8 * 1024
"""Bytes; the whole index of a pack of pictures. That of many small cells takes a second read."""
MOST_BYTES = 32 * 1024 * 1024
EVERY_S = 60.0
"""How much, and for how long, a machine keeps to itself."""


class Packs:
    """The packs of one name. One thread at a time.

    Raises, wherever it reads or writes, what `Objects` does.
    """

    def __init__(self, objects: Objects, name: str, memo: Path) -> None:
        """`memo`: this machine's folder for what is known of the store."""
        self._objects, self._folder = objects, f"cells/{name}/packs"
        memo.mkdir(parents=True, exist_ok=True)
        self._index = index = sqlite3.connect(memo / f"packs-{name}.sqlite", timeout=60, check_same_thread=False)
        index.execute("PRAGMA journal_mode=WAL")
        index.execute("PRAGMA synchronous=OFF")  # it can be read again
        index.execute("CREATE TABLE IF NOT EXISTS packs (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
        index.execute("CREATE TABLE IF NOT EXISTS cells (key BLOB PRIMARY KEY, pack INTEGER) WITHOUT ROWID")

    def refresh(self) -> None:
        """Learn what other machines have written since."""
        there = set(self._objects.listed(self._folder))
        known = {name for (name,) in self._index.execute("SELECT name FROM packs")}
        self._forget(known - there)
        new = sorted(there - known)
        for name, keys in zip(new, self._objects.each(self._keys, new), strict=True):
            self._remember(name, keys)

    def holding(self, key: str) -> str | None:
        """The pack that has a cell, as far as `refresh` knows."""
        query = "SELECT name FROM cells JOIN packs ON pack = id WHERE key = ?"
        row = self._index.execute(query, (bytes.fromhex(key),)).fetchone()
        return None if row is None else str(row[0])

    def read(self, pack: str) -> dict[str, bytes]:
        """All cells of a pack by key; empty where it is gone."""
        data = self._objects.read(pack)
        return {} if data is None else unpacked(data)

    def write(self, cells: Mapping[str, bytes]) -> None:
        """Put cells there, as one new pack."""
        name = f"{self._folder}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.pack"
        self._objects.write(name, packed(cells))
        self._remember(name, cells)

    def _keys(self, pack: str) -> list[str]:
        """Of a pack's cells; none where it is gone or unreadable."""
        head = self._objects.read_part(pack, 0, _FIRST_READ) or b""
        if len(head) < _HEAD or not head.startswith(_MAGIC):
            return []
        stop = _HEAD + int.from_bytes(head[len(_MAGIC) : _HEAD], "big")
        if stop > len(head):
            head += self._objects.read_part(pack, len(head), stop) or b""
        try:
            return [str(key) for key in json.loads(head[_HEAD:stop])]
        except ValueError:
            return []

    def close(self) -> None:
        self._index.close()

    def _forget(self, gone: Iterable[str]) -> None:
        with self._index as index:
            for name in gone:
                index.execute("DELETE FROM cells WHERE pack = (SELECT id FROM packs WHERE name = ?)", (name,))
                index.execute("DELETE FROM packs WHERE name = ?", (name,))

    def _remember(self, name: str, keys: Iterable[str]) -> None:
        with self._index as index:
            index.execute("INSERT OR IGNORE INTO packs (name) VALUES (?)", (name,))
            (number,) = index.execute("SELECT id FROM packs WHERE name = ?", (name,)).fetchone()
            rows = ((bytes.fromhex(key), number) for key in keys)
            index.executemany("INSERT OR REPLACE INTO cells VALUES (?, ?)", rows)


class Unsent:
    """Which cells this machine has and has not shared yet: lists of keys, that survive their process.

    One process writes a list; another one takes over those of the dead.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.keys"
        self._lock = open_lock(self._path)
        try_lock(self._lock)
        self._guard = threading.Lock()
        self._since = time.monotonic()
        self.keys: list[str] = []
        self.bytes = 0

    def add(self, key: str, some_bytes: int) -> None:
        with self._guard:
            os.write(self._lock, f"{key}\n".encode())
            self.keys.append(key)
            self.bytes += some_bytes

    @property
    def is_due(self) -> bool:
        return self.bytes >= MOST_BYTES or (bool(self.keys) and time.monotonic() - self._since > EVERY_S)

    def taken(self) -> list[str]:
        """What is to be sent now."""
        with self._guard:
            keys, self.keys, self.bytes, self._since = self.keys, [], 0, time.monotonic()
        return keys

    def sent(self) -> None:
        """What was taken is shared: it need not be known any more."""
        with self._guard:
            os.ftruncate(self._lock, 0)
            for key in self.keys:
                os.write(self._lock, f"{key}\n".encode())

    def of_the_dead(self) -> Iterator[tuple[Path, list[str]]]:
        """Lists that nobody holds; remove them when they are sent."""
        for path in sorted(self._folder.glob("*.keys")):
            if path == self._path:
                continue
            lock = open_lock(path)
            try:
                if try_lock(lock):
                    yield path, path.read_text(encoding="ascii", errors="replace").split()
            finally:
                os.close(lock)

    def close(self) -> None:
        """Leave nothing behind where all is sent."""
        if not self.keys:
            self._path.unlink(missing_ok=True)
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)


def packed(cells: Mapping[str, bytes]) -> bytes:
    places, place = {}, 0
    for key, cell in cells.items():
        places[key] = [place, len(cell)]
        place += len(cell)
    index = json.dumps(places).encode()
    return b"".join([_MAGIC, len(index).to_bytes(8, "big"), index, *cells.values()])


def unpacked(data: bytes) -> dict[str, bytes]:
    """Cells by key; none where it is no pack. Each cell carries its own digest, which its reader checks."""
    stop = _HEAD + int.from_bytes(data[len(_MAGIC) : _HEAD], "big")
    if not data.startswith(_MAGIC) or stop > len(data):
        return {}
    try:
        places = json.loads(data[_HEAD:stop])
        return {key: data[stop + start : stop + start + size] for key, (start, size) in places.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
