"""Locks between processes, by `flock`: the kernel frees them when their last holder dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def held(path: Path, waiting: Callable[[str], None]) -> Iterator[int]:
    """Hold the lock file, waiting for another holder if there is one; yields the descriptor.

    A child that inherits the descriptor keeps the lock held until it ends too.
    `waiting` is called once, with the holder in words, when the lock is not free at once.
    """
    descriptor = open_lock(path)
    try:
        if not try_lock(descriptor):
            waiting(_holder(path))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        sign(descriptor, {})
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody does; yields whether it is held now."""
    descriptor = open_lock(path)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """A descriptor of the lock file, which is made if it is not there; nothing is held yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def try_lock(descriptor: int) -> bool:
    """Whether the lock was free and is held now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sign(descriptor: int, more: dict[str, Any]) -> None:
    """Write into a held lock file whose it is: this process, and `more` that is worth knowing."""
    signature = {"pid": os.getpid(), "host": socket.gethostname(), **more}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(signature).encode(), 0)


def signature(path: Path) -> dict[str, Any]:
    """What the last holder wrote into a lock file; empty where that cannot be read."""
    try:
        signed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return signed if isinstance(signed, dict) else {}


def _holder(path: Path) -> str:
    return process_in_words(signature(path))


def process_in_words(signed: Mapping[str, Any]) -> str:
    """`process 123 on host`"""
    if "pid" not in signed or "host" not in signed:
        return "another process"
    return f"process {signed['pid']} on {signed['host']}"
