"""Several trainings at once: threads that each wait for a trainer, a process of its own that holds its devices."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass

from tasks.config import PipelineConfig
from tasks.devices import visible_devices
from tasks.errors import EXIT_CODES, ConfigError, TrainerPreempted
from tasks.manifest import Ref
from tasks.stage import Call, Handle, Runner
from tasks.trainer import stop_trainers

_LOG = logging.getLogger("sdxl_flows")


@dataclass(frozen=True)
class Failure:
    """Why a training came to nothing, in one line without places of this machine."""

    reason: str


def default_at_once(config: PipelineConfig) -> int:
    """As many as there are GPUs for; one on processors, of which a training uses all."""
    gpus = [device for device in visible_devices(config.runtime.device) if device.token is not None]
    return max(1, len(gpus) // config.training.processes)


def check_at_once(config: PipelineConfig, at_once: int) -> None:
    """Raises ConfigError where a limit of time is set, which only one training at a time can have."""
    limit = config.runtime.timeout_hours.train
    if at_once > 1 and limit is not None:
        raise ConfigError.about(
            "--parallel", expected="1 where runtime.timeout_hours.train is set", got=at_once, fix="Set one of the two"
        )


class _Waiting:
    """Calls that are not begun; what others are at comes last, so that machines with one store share the work."""

    def __init__(self, calls: Mapping[str, Call], is_taken: Callable[[Call], bool]) -> None:
        self._calls, self._is_taken = dict(calls), is_taken
        self._lock = threading.Lock()

    def next(self) -> tuple[str, Call] | None:
        with self._lock:
            if not self._calls:
                return None
            free = (name for name, call in self._calls.items() if not self._is_taken(call))
            name = next(free, None) or next(iter(self._calls))
            return name, self._calls.pop(name)


def run_together(
    calls: Mapping[str, Call], run: Runner, at_once: int, is_taken: Callable[[Call], bool] = lambda call: False
) -> dict[str, Ref | Failure]:
    """Run every call, so many at once; one that fails for a reason of its own does not keep the others from running.

    `is_taken`: whether somebody else is at a call, to be left for later.

    Whatever else goes wrong, and a signal, stops all trainers, which save, and is raised.
    """
    waiting, found = _Waiting(calls, is_taken), dict[str, Ref | Failure]()
    if at_once == 1:
        while (item := waiting.next()) is not None:
            found[item[0]] = _outcome(*item, run)
        return {name: found[name] for name in calls}
    done: queue.SimpleQueue[tuple[str, Ref | Failure | BaseException]] = queue.SimpleQueue()
    # daemons: a thread that Prefect lets wait before it tries again must not hold up a process that was told to end
    for number in range(min(at_once, len(calls))):
        threading.Thread(
            target=copy_context().run, args=(_work, waiting, done, run), daemon=True, name=f"sweep-{number}"
        ).start()
    try:
        while len(found) < len(calls):
            name, outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            found[name] = outcome
    except BaseException:
        stop_trainers()
        raise
    return {name: found[name] for name in calls}


def _work(waiting: _Waiting, done: queue.SimpleQueue[tuple[str, Ref | Failure | BaseException]], run: Runner) -> None:
    """One thread's: until nothing waits, or something is wrong that concerns all."""
    while (item := waiting.next()) is not None:
        try:
            done.put((item[0], _outcome(*item, run)))
        except BaseException as error:
            done.put((item[0], error))
            return


def _outcome(name: str, call: Call, run: Runner) -> Ref | Failure:
    try:
        handle: Handle = run(call)
    except TrainerPreempted:
        raise
    except tuple(EXIT_CODES) as error:
        _LOG.error("%s: failed: %s", name, error)
        return Failure(reason_of(error))
    assert isinstance(handle, Ref), f"{call.label} was only planned"
    return handle


def reason_of(error: Exception) -> str:
    """Its first line, without where the trainer's log is: a report must be the same wherever it is made."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return first.partition("; all it said is in ")[0]
