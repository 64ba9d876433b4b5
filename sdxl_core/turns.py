"""Loading models and computing with them, by several threads of one process.

While diffusers and transformers load, they change what all threads share: the default number format, how modules
register parameters, how weights are initialised. So one thread loads at a time, and none computes meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One that loads, or any number that compute. Who wants to load goes before who has not begun to compute."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._computing = self._wanting = 0
        self._loading = False

    @contextmanager
    def loading(self) -> Iterator[None]:
        with self._changed:
            self._wanting += 1
            self._changed.wait_for(lambda: not self._loading and self._computing == 0)
            self._wanting -= 1
            self._loading = True
        try:
            yield
        finally:
            with self._changed:
                self._loading = False
                self._changed.notify_all()

    @contextmanager
    def computing(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._loading and self._wanting == 0)
            self._computing += 1
        try:
            yield
        finally:
            with self._changed:
                self._computing -= 1
                self._changed.notify_all()


TURNS = Turns()
"""Of this process. Neither `loading` nor `computing` may be taken within the other."""
