"""Work done ahead by threads: decoding, reading and writing overlap with what the main thread computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = min(8, os.cpu_count() or 1)
"""Threads, not processes: Pillow's decoders and resampling, digests and files let go of Python's lock."""

THREAD = "behind"
"""Names the thread of what is done behind."""


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int = WORKERS, ahead: int | None = None
) -> Iterator[Result]:
    """`work` of every item, in the items' order, by several threads.

    At most `ahead` (default: two a worker) items are begun and not yet taken, so neither items nor results pile up.
    The first error ends it, at its item's place; what was begun after it is dropped.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(workers) as threads:
        begun: deque[Future[Result]] = deque()
        try:
            begun.extend(threads.submit(work, item) for item in islice(waiting, ahead or 2 * workers))
            while begun:
                result = begun.popleft().result()
                begun.extend(threads.submit(work, item) for item in islice(waiting, 1))
                yield result
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


class Behind:
    """Work done after the main thread, one piece at a time in the order given, at most `most` pieces late.

    An error of a piece is raised by the next `add`, or on leaving; no later piece is done then.
    """

    def __init__(self, most: int = 2) -> None:
        self._thread = ThreadPoolExecutor(1, THREAD)
        self._most = most
        self._begun: deque[Future[None]] = deque()
        self._failed = False

    def add(self, work: Callable[[], None]) -> None:
        """Waits for room. Raises what went wrong with an earlier piece, as soon as that is known."""
        while self._begun and (len(self._begun) >= self._most or self._begun[0].done()):
            self._begun.popleft().result()
        self._begun.append(self._thread.submit(self._unless_failed, work))

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What was added is finished even where the main thread failed: it may be worth keeping."""
        self._thread.shutdown(wait=True)
        if kind is None:
            for begun in self._begun:
                begun.result()

    def _unless_failed(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except BaseException:
            self._failed = True
            raise
