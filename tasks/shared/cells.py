"""Cells of which other machines have more: looked for here first, then in the packs of the shared store."""

from __future__ import annotations

import logging
import re
import threading
from contextlib import suppress
from pathlib import Path

from tasks.cells import DiskCells
from tasks.errors import StoreAway
from tasks.shared.objects import Objects
from tasks.shared.packs import MOST_BYTES, Packs, Unsent

_LOG = logging.getLogger("sdxl_flows.store")
_KEY = re.compile(r"[0-9a-f]{16,128}")


class SharedCells(DiskCells):
    """What is missing here is looked for in the packs; what is written here is sent in packs, by and by and at `flush`.

    A pack is read whole: cells that were computed together are wanted together. A store that cannot be reached while
    cells are sent is told in the log, and costs nothing but that others compute them too, until they are sent later.
    """

    def __init__(self, root: Path, objects: Objects, memo: Path) -> None:
        super().__init__(root)
        self._packs = Packs(objects, root.name, memo)
        self._unsent = Unsent(memo / "unsent" / root.name)
        self._lock = threading.Lock()
        self._looked = False

    def __getitem__(self, key: str) -> bytes:
        """
        Raises:
            KeyError: nobody has it.
            StoreAway: the shared store cannot be asked.
        """
        with suppress(KeyError):
            return super().__getitem__(key)
        with self._lock:
            self._fetch(key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: bytes) -> None:
        super().__setitem__(key, value)
        self._unsent.add(key, len(value))
        if self._unsent.is_due:
            self.flush()

    def flush(self) -> None:
        """Send what is new here, also what dead processes could not send."""
        try:
            with self._lock:
                self._send(self._unsent.taken())
                self._unsent.sent()
                for path, keys in self._unsent.of_the_dead():
                    self._send(keys)
                    path.unlink(missing_ok=True)
        except StoreAway as error:
            _LOG.warning("%s: cells were not shared, which the next run does: %s", self._root.name, error)

    def close(self) -> None:
        self.flush()
        self._unsent.close()
        self._packs.close()

    def _fetch(self, key: str) -> None:
        if self._path(key).exists():
            return  # another thread was faster
        if not self._looked:
            self._packs.refresh()
            self._looked = True
        if (pack := self._packs.holding(key)) is None:
            return
        for each, data in self._packs.read(pack).items():
            if _KEY.fullmatch(each) and not self._path(each).exists():
                self._write(self._path(each), data)

    def _send(self, keys: list[str]) -> None:
        cells: dict[str, bytes] = {}
        for key in dict.fromkeys(keys):
            with suppress(OSError, ValueError):  # gone since, or a list that was cut off
                cells[key] = self._path(key).read_bytes()
            if sum(map(len, cells.values())) >= MOST_BYTES:
                self._packs.write(cells)
                cells = {}
        if cells:
            self._packs.write(cells)
