"""Digests: of JSON values, of files (memoised) and of folders."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

from sdxl_core.disk import file_sha256

_SETTLED_NS = 2_000_000_000
"""A file younger than this may still change within one tick of the clock; its digest is not memoised."""
_AT_ONCE = 500
_READERS = 8
"""More than there are cores: they wait for the disk."""


def canonical_json(value: object) -> bytes:
    """The one JSON spelling of a value: sorted keys, no blanks, UTF-8, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_json(value: object) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


class FileDigests:
    """File digests remembered by (path, size, times, inode). The memo only saves reading; the bytes alone decide.

    The time of change (ctime) is among them because, unlike that of modification, no program can set it back: an edit
    that keeps a file's size and restores its mtime is seen too.
    """

    def __init__(self, memo: Path) -> None:
        memo.parent.mkdir(parents=True, exist_ok=True)
        self._memo = memo
        with self._connected() as table:
            table.execute("PRAGMA journal_mode=WAL")
            table.execute(
                "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL)"
            )

    def __call__(self, path: Path) -> str:
        """SHA-256 of a file's bytes, read only when its size, times or inode differ from the last reading."""
        return next(self.many([path]))

    def many(self, paths: Iterable[Path]) -> Iterator[str]:
        """The digest of each file in turn. Some hundred are asked for at once, and those to be read are read by
        several threads; no more than these are held in memory."""
        waiting = iter(paths)
        with self._connected() as table, ThreadPoolExecutor(_READERS) as readers:
            while some := list(islice(waiting, _AT_ONCE)):
                yield from self._digests(some, table, readers)

    def _digests(self, paths: Sequence[Path], table: sqlite3.Connection, readers: Executor) -> list[str]:
        places, stats = [os.path.abspath(path) for path in paths], [path.stat() for path in paths]
        stamps = [f"{s.st_size}/{s.st_mtime_ns}/{s.st_ctime_ns}/{s.st_ino}" for s in stats]
        asked = f"SELECT path, stamp, sha256 FROM digests WHERE path IN ({','.join('?' * len(places))})"
        known = {(path, stamp): str(sha256) for path, stamp, sha256 in table.execute(asked, places)}
        found = [known.get(entry) for entry in zip(places, stamps, strict=True)]
        unread = [i for i, sha256 in enumerate(found) if sha256 is None]
        fresh = dict(zip(unread, readers.map(file_sha256, [paths[i] for i in unread]), strict=True))
        settled = time.time_ns() - _SETTLED_NS
        lasting = [i for i in unread if max(stats[i].st_mtime_ns, stats[i].st_ctime_ns) < settled]
        rows = [(places[i], stamps[i], fresh[i]) for i in lasting]
        with table:
            table.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)
        return [fresh[i] if sha256 is None else sha256 for i, sha256 in enumerate(found)]

    def folder(self, root: Path, files: Iterable[Path]) -> str:
        """Digest of the files' relative names and bytes; neither the root's place nor any time enters."""
        here = list(files)
        names = (path.relative_to(root).as_posix() for path in here)
        return digest_json(dict(zip(names, self.many(here), strict=True)))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._memo, timeout=30)) as table:
            table.execute("PRAGMA synchronous=NORMAL")  # with a write-ahead log: a crash may forget, never garble
            yield table
