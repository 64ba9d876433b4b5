"""Digests: of JSON values, of files (memoised) and of folders."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from sdxl_core.disk import file_sha256

_SETTLED_NS = 2_000_000_000
"""A file younger than this may still change within one tick of the clock; its digest is not memoised."""


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
        with self._connect() as table:
            table.execute("PRAGMA journal_mode=WAL")
            table.execute(
                "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL)"
            )

    def __call__(self, path: Path) -> str:
        """SHA-256 of a file's bytes, read only when its size, times or inode differ from the last reading."""
        place, stat = str(path.resolve()), path.stat()
        stamp = f"{stat.st_size}/{stat.st_mtime_ns}/{stat.st_ctime_ns}/{stat.st_ino}"
        with self._connect() as table:
            row = table.execute("SELECT sha256 FROM digests WHERE path = ? AND stamp = ?", (place, stamp)).fetchone()
            if row is not None:
                return str(row[0])
            sha256 = file_sha256(path)
            if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED_NS:
                table.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (place, stamp, sha256))
            return sha256

    def folder(self, root: Path, files: Iterable[Path]) -> str:
        """Digest of the files' relative names and bytes; neither the root's place nor any time enters."""
        return digest_json({path.relative_to(root).as_posix(): self(path) for path in files})

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._memo, timeout=30)
