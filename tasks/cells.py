"""Small cached values beneath the stages: one encode, one picture, one score each."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from sdxl_core.disk import naming_a_full_disk

_LOG = logging.getLogger("sdxl_flows.store")
_MAGIC = b"cell1\n"
_HEAD = len(_MAGIC) + 32
_KEY = re.compile(r"[0-9a-f]{16,128}")
_TOUCH_AFTER_S = 86_400


class DiskCells(MutableMapping[str, bytes]):
    """Bytes by hex key, one file each, in 256 folders; safe with many writers and against being killed.

    Every cell carries its SHA-256, so that a torn or damaged one reads as absent and is simply computed again;
    that is why a write needs no fsync, only a rename.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __getitem__(self, key: str) -> bytes:
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None
        body = data[_HEAD:]
        if data[:_HEAD] != _MAGIC + hashlib.sha256(body).digest():
            _LOG.warning("damaged cell %s: discarded, it will be computed again", path)
            path.unlink(missing_ok=True)
            raise KeyError(key)
        self._note_use(path)
        return body

    def __setitem__(self, key: str, value: bytes) -> None:
        """Raises DiskFullError where there is no room."""
        with naming_a_full_disk(self._root, len(value)):
            self._write(self._path(key), _MAGIC, hashlib.sha256(value).digest(), value)

    def __delitem__(self, key: str) -> None:
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        """Whether the cell reads whole; a damaged one is not contained."""
        try:
            self[str(key)]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        for path in sorted(self._root.glob("??/*")):
            if _KEY.fullmatch(path.name):
                yield path.name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a cell's key should be 16 to 128 lower-case hex digits, got {key!r}")
        return self._root / key[:2] / key

    @staticmethod
    def _write(path: Path, *parts: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.writelines(parts)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @staticmethod
    def _note_use(path: Path) -> None:
        """Move the time forward once a day, so that garbage collection can go by last use."""
        if time.time() - path.stat().st_mtime > _TOUCH_AFTER_S:
            os.utime(path)
