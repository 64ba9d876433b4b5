"""The one who divides: has the missing cells of a stage made by shards, and waits for them."""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from tasks.devices import visible_devices
from tasks.errors import USER_ERRORS, ConfigError, StageTimedOut
from tasks.fan_out.config import FanOutConfig
from tasks.fan_out.engines import Engine, opened, require_engine
from tasks.fan_out.parts import divide, to_ranges
from tasks.fan_out.shard import Mark, Shard, look_around, run_shard
from tasks.manifest import Json, library_versions
from tasks.progress import Progress
from tasks.stage import Call, Cells, Job

_LOG = logging.getLogger("sdxl_flows")
LOOK_EVERY_S = 0.5
_LOSSES = frozenset(
    {
        "concurrent.futures.process.BrokenProcessPool",
        "concurrent.futures._base.CancelledError",
        "distributed.scheduler.KilledWorker",
        "distributed.client.FutureCancelledError",
        "prefect.exceptions.CrashedRun",
        "ray.exceptions.RayError",
    }
)
"""What engines raise when a worker is gone; by name, so that none has to be loaded. Subclasses are meant too."""


class ShardFailed(RuntimeError):
    """A shard met an error; the one that it was raised from."""


class WorkersLost(ConnectionError):
    """Workers ended before their shards did. What they had made is there, and another try makes the rest."""


class FanOut:
    """Has cells made by an engine."""

    def __init__(self, config: FanOutConfig, device: str, run: str) -> None:
        """`run`: name of the run, for those who wait for its devices. Raises ConfigError as `require_engine`."""
        require_engine(config)
        self._config, self._device, self._run = config, device, run

    def __call__(self, call: Call, job: Job, limit_s: float | None) -> None:
        """Make what is missing of the call's cells, each shard within `limit_s` of computing.

        Does nothing where nothing is missing, nor where one shard would have all: the build itself is as fast.

        Raises:
            UserError: the engine, its workers or a shard cannot work as configured.
            StageTimedOut: a shard took longer than it may.
            ShardFailed: a shard met any other error.
            WorkersLost: a worker was lost.
        """
        assert call.stage.cells is not None
        cells = call.stage.cells(job)
        batches = cells.missing(job.device)
        most = len(batches) if self._config.address else min(self._here(), len(batches))
        if most == 0 or (most == 1 and not self._config.address):
            return
        started = time.monotonic()
        with opened(self._config, self._device, most) as engine, self._marked(job) as mark:
            wanted = engine.places if self._config.shards == "devices" else self._config.shards
            parts = divide(batches, min(most, wanted))
            shards = [
                self._shard(job, numbers, (i, len(parts)), limit_s, mark, engine.name)
                for i, numbers in enumerate(parts, 1)
            ]
            if mark is not None:
                _gather(call, [engine.submit(_task(look_around, call.stage.kind), _told(call, one)) for one in shards])
            made = self._make(engine, call, shards, _Watch(cells, parts, job.progress, f"{len(parts)} shards"))
        took_s = time.monotonic() - started
        _LOG.info(
            "%-22s %d made by %d shards (%s) in %.1f s", call.label, made, len(parts), self._config.engine, took_s
        )

    def _make(self, engine: Engine, call: Call, shards: Sequence[Shard], watch: _Watch) -> int:
        task = _task(run_shard, call.stage.kind)
        found = _gather(call, [engine.submit(task, _told(call, shard)) for shard in shards], watch.look)
        for one in found:
            _LOG.debug("%s: shard %s made %s in %s s on %s", call.label, *(one[n] for n in _TOLD))
        return sum(int(one["made"]) for one in found)

    def _here(self) -> int:
        """How many shards this machine would have."""
        shards = self._config.shards
        return max(1, len(visible_devices(self._device))) if shards == "devices" else shards

    def _shard(
        self,
        job: Job,
        numbers: Sequence[int],
        place: tuple[int, int],
        limit_s: float | None,
        mark: Mark | None,
        engine: str,
    ) -> Shard:
        torch = sys.modules.get("torch")
        return Shard(
            number=place[0],
            of=place[1],
            ranges=to_ranges(numbers),
            place=job.store.place,
            device=self._device,
            run=self._run,
            limit_s=limit_s,
            threads=None if torch is None else torch.get_num_threads(),
            engine=engine,
            mark=mark,
        )

    @contextmanager
    def _marked(self, job: Job) -> Iterator[Mark | None]:
        """Something in the store that workers elsewhere find if it is theirs too."""
        if self._config.address is None:
            yield None
            return
        if job.store.place.url is not None:
            yield Mark(None, library_versions())
            return
        marks, key = job.store.cells("marks"), secrets.token_hex(16)
        marks[key] = key.encode()
        try:
            yield Mark(key, library_versions())
        finally:
            marks.pop(key, None)


_TOLD = ("shard", "made", "seconds", "worker")


def _told(call: Call, shard: Shard) -> dict[str, Any]:
    # the stage is found by its module in a worker; what it makes of the call is the same there
    return {"call": call, "shard": shard}


@cache
def _task(function: Callable[[Call, Shard], dict[str, Json]], kind: str) -> Task[..., dict[str, Json]]:
    """Trying again is for the stage, which has what is still missing made then."""
    return Task(
        function,
        name=f"{kind} {function.__name__.replace('_', ' ')}",
        task_run_name="{call.label} {shard.number} of {shard.of}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=0,
    )


class _Watch:
    """How far all shards are, by the cells that are there; each makes its own in their order."""

    def __init__(self, cells: Cells, parts: Sequence[Sequence[int]], progress: Progress, note: str) -> None:
        self._cells, self._progress, self._note = cells, progress, note
        self._left = [list(reversed(part)) for part in parts]
        self._total = sum(map(len, parts))

    def look(self, ended: Collection[int]) -> None:
        """`ended`: numbers of shards, whose cells may be on other machines yet."""
        for number in ended:
            self._left[number - 1].clear()
        for part in self._left:
            while part and self._cells.has(part[-1]):
                part.pop()
        self._progress(self._total - sum(map(len, self._left)), self._total, self._note)


def _gather(
    call: Call, futures: Sequence[PrefectFuture[Any]], look: Callable[[Collection[int]], None] = lambda ended: None
) -> list[dict[str, Json]]:
    """What all of them return. One that fails lets the others finish, whose cells are worth keeping.

    Raises as `FanOut`, of the first that failed.
    """
    waiting, found = dict(enumerate(futures, 1)), {}
    failed: dict[int, BaseException] = {}
    while waiting:
        for number, future in list(waiting.items()):
            try:
                ended = future.result(timeout=LOOK_EVERY_S / len(waiting), raise_on_failure=False)
            except TimeoutError:
                continue
            except Exception as error:
                ended = error
            del waiting[number]
            if isinstance(ended, BaseException):
                failed[number] = ended
                if waiting and not _is_loss(ended):
                    _LOG.warning("%s: shard %d of %d failed; the others go on", call.label, number, len(futures))
            else:
                found[number] = ended
        look(found)
    if failed:
        _raise(call, failed, len(futures))
    return [found[number] for number in sorted(found)]


def _raise(call: Call, failed: dict[int, BaseException], of: int) -> None:
    number, error = min(failed.items(), key=lambda entry: (_is_loss(entry[1]), entry[0]))
    where = f"{call.label}: shard {number} of {of}"
    if _is_loss(error):
        raise WorkersLost(f"{where}: its worker was lost ({type(error).__name__}: {error})") from error
    if isinstance(error, USER_ERRORS):
        raise ConfigError(f"{where}: {error}") from None
    if isinstance(error, StageTimedOut):
        raise StageTimedOut(str(error)) from None
    raise ShardFailed(f"{where}: {type(error).__name__}: {error}") from error


def _is_loss(error: BaseException) -> bool:
    return not _LOSSES.isdisjoint(f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
