"""The accelerator's slot: one heavy stage at a time on a machine's device, whoever started it."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.locks import held

_LOG = logging.getLogger("sdxl_flows")


@contextmanager
def device_slot(store_root: Path, device: str, label: str) -> Iterator[tuple[int, ...]]:
    """Hold the device's slot; yields the lock descriptors that a child computing on it must inherit.

    The lock is a file, so it works with and without a Prefect server, and is free the moment the last process that
    holds it is gone. Processors are shared by the operating system and need no slot.
    """
    name = _accelerator(device)
    if name is None:
        yield ()
        return
    path = store_root / "locks" / f"device-{socket.gethostname()}-{name}.lock"
    with held(path, lambda holder: _LOG.warning("%s: %s is busy (%s); waiting for it", label, name, holder)) as lock:
        yield (lock,)


def _accelerator(device: str) -> str | None:
    """A name for the accelerator that a device setting means, without importing torch to ask."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu" or (device == "auto" and not (visible or any(Path("/dev").glob("nvidia[0-9]*")))):
        return None
    return re.sub(r"[^a-z0-9]+", "-", f"{device}-{visible or 'all'}".lower())
