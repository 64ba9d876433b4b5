"""Numbered JSON objects, each created once: what several machines append to without a lock.

Of those that want the same number one gets it; the others read what it wrote, and decide again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping

from tasks.manifest import Json
from tasks.shared.memo import Memo
from tasks.shared.objects import Objects

Document = Mapping[str, Json]


class Log:
    """The objects of one folder, numbered from 1 on without a gap. Raises what `Objects` does."""

    def __init__(self, objects: Objects, memo: Memo, folder: str, digits: int) -> None:
        self._objects, self._memo = objects, memo
        self._folder, self._digits = folder, digits

    def read(self) -> dict[int, Document]:
        """All there are, by number, in order.

        One request where nothing came since this machine looked last: it asks for the next number. Only the first look
        lists the folder.
        """
        known = self._memo.here(self._folder) or self._objects.listed(self._folder)
        last = max(map(_number, known), default=0)
        found = self._memo.read_all(map(self._name, range(1, last + 1)))
        following = last + 1
        while (data := self._memo.read(self._name(following))) is not None:
            found[self._name(following)] = data
            following += 1
        return {_number(name): _parsed(data) for name, data in found.items()}

    def append(self, document: Callable[[Mapping[int, Document], int], Document]) -> int:
        """Write what `document` makes of all there are and the next number; returns that number.

        It is called again whenever somebody else was quicker, and may raise to give up.
        """
        # by which a writer knows its own, where an answer was lost and the request repeated
        token = uuid.uuid4().hex
        while True:
            there = self.read()
            number = max(there, default=0) + 1
            data = json.dumps({"token": token, **document(there, number)}, indent=1).encode()
            name = self._name(number)
            if self._objects.create(name, data) or self._objects.read(name) == data:
                self._memo.keep(name, data)
                return number

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:0{self._digits}d}.json"


def _number(name: str) -> int:
    return int(name.rpartition("/")[2].removesuffix(".json"))


def _parsed(data: bytes) -> Document:
    document: dict[str, Json] = json.loads(data)
    document.pop("token", None)
    return document
