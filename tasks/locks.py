"""Locks between processes, by `flock`: the kernel frees them when their last holder dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path, waiting: Callable[[str], None]) -> Iterator[int]:
    """Hold the lock file, waiting for another holder if there is one; yields the descriptor.

    A child that inherits the descriptor keeps the lock held until it ends too.
    `waiting` is called once, with the holder in words, when the lock is not free at once.
    """
    descriptor = _open(path)
    try:
        if not _try(descriptor):
            waiting(_holder(path))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        _sign(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody does; yields whether it is held now."""
    descriptor = _open(path)
    try:
        yield _try(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _holder(path: Path) -> str:
    try:
        signed = json.loads(path.read_text())
        return f"process {signed['pid']} on {signed['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
