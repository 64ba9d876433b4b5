"""Other processes for tests: clean ones, and quickly there.

A forked copy of the tests' own process would inherit the locks of whatever threads ran before, held or not; so children
are forked from a server that has only loaded what they need.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["tests.tasks.conftest", "sdxl_core.bundle"])
TOUCHES = {"open", "os.rename", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}


def killed_at_every_touch(
    work: Callable[..., None], prepare: Callable[[int], tuple[Any, ...]], least: int = 20
) -> Iterator[tuple[Any, ...]]:
    """Do `work(*prepare(n))` in a process that kills itself at its n-th touch of the file system, for every n.

    Yields the arguments after each kill; ends when one process gets through, which must have touched it more than
    `least` times.
    """
    for n in range(1000):
        arguments = prepare(n)
        child = CLEAN.Process(target=_killed_at_touch, args=(n, work, arguments))
        child.start()
        child.join(60)
        if child.exitcode == 0:
            assert n > least, f"killed only {n} times: what was to be watched was not"
            return
        assert child.exitcode == -signal.SIGKILL
        yield arguments


def _killed_at_touch(n: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    touches = 0

    def count(event: str, details: tuple[object, ...]) -> None:
        nonlocal touches
        if event in TOUCHES:
            touches += 1
            if touches > n:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    work(*arguments)
    os._exit(0)
