"""Who builds what, among machines that share a store: a lock that is free again when its holder's machine is gone.

leases/<name>/<epoch>.json   who holds it; created once, so that of several one gets the epoch
leases/<name>/<epoch>.beat   a counter that the holder counts up while it lives

Nobody's clock is compared with another's: who waits takes the next epoch when the counter has stood still for as long
as the lease lasts, by its own clock. A holder that was only frozen meanwhile may then work beside its successor;
therefore nothing rests on a lease but that work is not done twice: what is written is created once, and complete.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import StoreAway
from tasks.locks import process_in_words
from tasks.shared.objects import Objects

_LOG = logging.getLogger("sdxl_flows.store")
LASTS_S = "SDXL_FLOWS_LEASE_S"
"""Environment variable: how long a holder may be silent. Every machine should have the same."""
_LASTS_S = 60.0
_BEATS = 4
"""A holder that lives says so this often within the time that a lease lasts."""


def building(kind: str, key: str) -> str:
    """Name of the lease of whoever builds an artifact."""
    return f"{kind}-{key}"


def lease_s() -> float:
    """Seconds."""
    return float(os.environ.get(LASTS_S) or _LASTS_S)


@dataclass
class _Seen:
    """What somebody who waits has seen last, and since when."""

    state: object
    since: float = field(default_factory=time.monotonic)


@contextmanager
def leased(objects: Objects, name: str, waiting: Callable[[str], None], is_done: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lease, waiting for another holder if there is one; yields whether it is held.

    `waiting` is called once, with the holder in words, when it is not free at once. `is_done` is asked while waiting;
    when it says so, nothing is held.

    Raises:
        StoreAway: the store cannot be reached.
    """
    epoch = _taken(objects, name, waiting, is_done)
    if epoch is None:
        yield False
        return
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(objects, name, epoch, over), daemon=True, name=f"lease of {name}")
    beating.start()
    try:
        yield True
    finally:
        over.set()
        beating.join()
        with suppress(StoreAway):  # it ends by itself, later
            objects.remove([f"{_folder(name)}/{path}" for path in (f"{epoch:08d}.beat", f"{epoch:08d}.json")])


def is_leased(objects: Objects, name: str) -> bool:
    """Whether there is a holder, dead or alive. Raises StoreAway."""
    return any(path.endswith(".json") for path in objects.listed(_folder(name)))


def _taken(objects: Objects, name: str, waiting: Callable[[str], None], is_done: Callable[[], bool]) -> int | None:
    seen: _Seen | None = None
    lasts_s, told = lease_s(), False
    while True:
        state = _state(objects, name)
        epoch, holder = state if state is not None else (0, None)
        if seen is None or seen.state != state:
            seen = _Seen(state)
        is_free = state is None or time.monotonic() - seen.since > lasts_s
        if is_free and _created(objects, f"{_folder(name)}/{epoch + 1:08d}.json"):
            _forget(objects, name, epoch)
            return epoch + 1
        if not told and holder is not None:
            waiting(process_in_words(holder["by"]))
            told = True
        if is_done():
            return None
        time.sleep(min(1.0, lasts_s / 10))


def _created(objects: Objects, place: str) -> bool:
    """Whether this made it; also where the answer was lost, and a repetition found it there."""
    mine = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "token": secrets.token_hex(8)}).encode()
    return objects.create(place, mine) or objects.read(place) == mine


def _state(objects: Objects, name: str) -> tuple[int, dict[str, Any]] | None:
    """The last epoch, whose it is and how often its holder has counted; None where nobody holds it."""
    names = [path.rpartition("/")[2] for path in objects.listed(_folder(name))]
    epochs = [int(path.removesuffix(".json")) for path in names if path.endswith(".json")]
    if not epochs:
        return None
    last = max(epochs)
    signed = objects.read(f"{_folder(name)}/{last:08d}.json") or b"{}"
    return last, {"by": json.loads(signed), "beat": objects.read(f"{_folder(name)}/{last:08d}.beat")}


def _beat(objects: Objects, name: str, epoch: int, over: threading.Event) -> None:
    count = 0
    while not over.is_set():
        count += 1
        try:
            objects.write(f"{_folder(name)}/{epoch:08d}.beat", b"%d" % count)
        except Exception as error:
            _LOG.warning("%s: the shared store was not told that this is still under way: %s", name, error)
        over.wait(lease_s() / _BEATS)


def _forget(objects: Objects, name: str, epoch: int) -> None:
    """What dead holders left behind."""
    if epoch:
        with suppress(StoreAway):
            old = [path for path in objects.listed(_folder(name)) if int(path.rpartition("/")[2][:8]) <= epoch]
            objects.remove(old)


def _folder(name: str) -> str:
    return f"leases/{name}"
