"""This machine's copies of small objects that are created once and never change, so that each is fetched once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tasks.shared.objects import Objects


class Memo:
    """Objects that hold JSON, below `shared/` in the folder of this machine's copies; of every URL its own.

    Raises, wherever it reads, what `Objects` does.
    """

    def __init__(self, objects: Objects, root: Path) -> None:
        self._objects = objects
        self.folder = root / "shared" / hashlib.sha256(objects.url.encode()).hexdigest()[:16]

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those that are there, by name, in the names' order."""
        wanted = list(names)
        here = {name: data for name in wanted if (data := self._copy(name)) is not None}
        fetched = self._objects.read_all(name for name in wanted if name not in here)
        for name, data in fetched.items():
            self.keep(name, data)
        return {name: found for name in wanted if (found := here.get(name, fetched.get(name))) is not None}

    def read(self, name: str) -> bytes | None:
        return self.read_all([name]).get(name)

    def here(self, folder: str) -> list[str]:
        """Names of the copies in a folder, sorted."""
        return sorted(f"{folder}/{path.name}" for path in (self.folder / folder).glob("*.json"))

    def drop(self, name: str) -> None:
        """Of one that is gone there."""
        (self.folder / name).unlink(missing_ok=True)

    def keep(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)

    def _copy(self, name: str) -> bytes | None:
        """None as well for one that a machine that died has not written to its end: JSON objects end with a brace."""
        try:
            data = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        return data if data.endswith(b"}") else None
