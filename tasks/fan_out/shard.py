"""A part of what lies beneath a stage, made wherever the engine puts it."""

from __future__ import annotations

import multiprocessing
import os
import platform
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

from tasks.errors import ConfigError, StageTimedOut
from tasks.fan_out.parts import Ranges, from_ranges
from tasks.manifest import Json, Ref, library_versions
from tasks.prefect_home import leave_errors_to_caller
from tasks.secrets import mask_logs
from tasks.slots import device_slot
from tasks.stage import Call, free_device_memory, job_of
from tasks.store import ArtifactStore, StorePlace
from tasks.time_limit import time_is_up

STOPS: dict[str, threading.Event] = {}
"""By what an engine is known by: set where its shards, which are threads of this process, are to end."""


@dataclass(frozen=True)
class Mark:
    """What whoever divides the work left in the store, for those far away to find."""

    key: str | None
    """Of a cell; None where the store is known by its URL to all."""
    libraries: Mapping[str, str]


@dataclass(frozen=True)
class Shard:
    """One part, and where and how it is made."""

    number: int
    """From 1 on."""
    of: int
    ranges: Ranges
    place: StorePlace
    device: str
    run: str
    limit_s: float | None
    """For how long it may compute, waiting not counted."""
    threads: int | None
    """How many of a processor's one operation uses, since their number may decide how sums are divided, and so the last
    bits; None where no torch is."""
    engine: str = ""
    """What the engine is known by among `STOPS`."""
    mark: Mark | None = None
    """To be found where the workers may be on other machines."""

    def label(self, call: Call) -> str:
        return f"{call.label} shard {self.number}/{self.of}"


class ShardStopped(RuntimeError):
    """Whoever divided the work needs it no more."""


def run_shard(call: Call, shard: Shard) -> dict[str, Json]:
    """Make a shard's cells; returns {"shard", "made", "seconds", "worker"}.

    Raises:
        ConfigError: this worker does not see the store or the models, or has other versions of libraries.
        StageTimedOut: it took longer than it may.
        ShardStopped: the run that it belongs to has ended.
    """
    mask_logs()
    _leave_errors_to_caller()
    store = reach(call, shard)
    assert call.stage.cells is not None
    wish = replace(call.wish(shard.device, shard.run), label=shard.label(call), count=1)
    with device_slot(store.root, wish, lambda _: None) as slot, tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        progress = _bounded(call, shard, started)
        _use_threads(shard.threads)
        try:
            cells = call.stage.cells(job_of(call, store, slot, progress, out=Path(name), work=Path(name)))
            made = cells.fill(from_ranges(shard.ranges), slot.device, progress)
        finally:
            free_device_memory()
            store.share_cells()
    return {"shard": shard.number, "made": made, "seconds": round(time.monotonic() - started, 3), "worker": worker()}


def reach(call: Call, shard: Shard) -> ArtifactStore:
    """The store, in which this process sees what it needs. Raises ConfigError where it does not."""
    store = ArtifactStore.at(shard.place)
    if shard.mark is not None:
        _require_mark(store, shard.mark)
        if absent := next((place for place in _places(call.local) if not Path(place).exists()), None):
            raise ConfigError(f"{_here()} has no {absent}: models have to be in the same place on every machine")
    for name, ref in call.inputs.items():
        assert isinstance(ref, Ref)
        if store.find_whole(ref.kind, ref.key) is None:
            raise ConfigError(f"{_here()} does not see the {name} {ref} in {_shown(store)}; {_SHARE}")
    return store


def look_around(call: Call, shard: Shard) -> dict[str, Json]:
    """What a worker is asked before it is given work. Raises ConfigError as `reach`."""
    reach(call, shard)
    return {"worker": worker()}


_SHARE = "set runtime.store to a folder that all machines mount in the same place, or to a bucket"


def _require_mark(store: ArtifactStore, mark: Mark) -> None:
    if mark.key is not None and mark.key not in store.cells("marks"):
        raise ConfigError(f"runtime.fan_out.address: {_here()} does not see this machine's {_shown(store)}; {_SHARE}")
    mine = library_versions()
    for name, version in mark.libraries.items():
        if mine.get(name) != version:
            raise ConfigError(
                f"runtime.fan_out.address: {_here()} has {name} {mine.get(name)}; expected {version}, as here, since "
                "another may move the last bits of what it computes"
            )


def _shown(store: ArtifactStore) -> str:
    return f"store {store.place.url or store.root}"


def _here() -> str:
    return f"the worker {worker()}"


def worker() -> str:
    return f"{socket.gethostname() or platform.node()}:{os.getpid()}"


def _places(value: Json) -> Iterator[str]:
    """Absolute paths among a call's places."""
    if isinstance(value, str):
        if value.startswith("/"):
            yield value
        return
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for entry in entries:
        yield from _places(entry)


def _bounded(call: Call, shard: Shard, started: float) -> Callable[..., None]:
    """Ends the work between two batches, when its time is up or nobody waits for it any more."""

    def progress(done: int, total: int, note: str = "") -> None:
        if (stop := STOPS.get(shard.engine)) is not None and stop.is_set():
            raise ShardStopped(f"{shard.label(call)}: stopped")
        if shard.limit_s is not None and time.monotonic() - started > shard.limit_s:
            setting = f"runtime.timeout_hours.{call.stage.kind}"
            raise StageTimedOut(time_is_up(shard.label(call), shard.limit_s, setting))

    return progress


@cache
def _leave_errors_to_caller() -> None:
    """In a process that an engine has started, whose console is the run's own."""
    if multiprocessing.parent_process() is not None:
        leave_errors_to_caller()


def _use_threads(count: int | None) -> None:
    if count is None:
        return
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def end_with(whose: Connection) -> None:
    """From now on, end this process when the other end of a pipe is closed, as it is when its owner is gone."""

    def watch() -> None:
        whose.poll(None)
        os._exit(75)

    threading.Thread(target=watch, daemon=True, name="watches who divides the work").start()
