"""The engines: Prefect's task runners, opened for the shards of one stage and closed with them."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from tasks.errors import ConfigError
from tasks.fan_out.config import CLUSTERS, FanOutConfig
from tasks.fan_out.shard import STOPS, end_with

ADDRESS = "runtime.fan_out.address"
_WAIT = "OMP_WAIT_POLICY"
_RAY_MEMORY = 100 * 1024**2
"""For what tasks return, which is little; by default Ray takes a third of the machine's."""


@dataclass(frozen=True)
class Engine:
    """One that takes tasks."""

    runner: TaskRunner[Any]
    places: int
    """How many shards it can compute at a time."""
    name: str = ""
    """Where its shards are threads of this process: what they are known by."""
    asking: Callable[[], AbstractContextManager[object]] = nullcontext
    """Around what is submitted: what it asks of a worker."""

    def submit(self, task: Task[..., Any], parameters: Mapping[str, Any]) -> PrefectFuture[Any]:
        with self.asking():
            future: PrefectFuture[Any] = self.runner.submit(task, dict(parameters))
        return future


def require_engine(config: FanOutConfig) -> None:
    """Raises ConfigError where the engine is not installed, or its workers could not reach Prefect's server."""
    if config.engine in CLUSTERS and importlib.util.find_spec(f"prefect_{config.engine}") is None:
        raise ConfigError.about(
            "runtime.fan_out.engine",
            expected="an engine that is installed",
            got=config.engine,
            fix=f"Install it with `pip install 'sdxl-flows[{config.engine}]'`",
        )
    if config.engine in CLUSTERS and config.address is not None:
        _require_server_for(config.address)


def _require_server_for(address: str) -> None:
    from prefect.settings import PREFECT_API_URL

    if "://" not in address:
        address = f"tcp://{address}"
    url = PREFECT_API_URL.value()
    if not _is_here(address) and (url is None or _is_here(url)):
        raise ConfigError.about(
            ADDRESS,
            expected="a Prefect server that workers on other machines reach",
            got=f"PREFECT_API_URL = {url}",
            fix="Start one for them (docs/serving.md) and set PREFECT_API_URL",
        )


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")


@contextmanager
def opened(config: FanOutConfig, device: str, shards: int) -> Iterator[Engine]:
    """An engine for at most so many shards at a time.

    Left by an exception, it ends the shards that run on this machine; those of a cluster elsewhere finish their part.

    Raises:
        ConfigError: there is no cluster at the address, or none with workers.
    """
    with ExitStack() as stack:
        if config.engine != "threads" and config.address is None:
            stack.enter_context(_patient_children())
        yield _OPEN[config.engine](config, device, shards, stack)


@contextmanager
def _patient_children() -> Iterator[None]:
    """Have the processors' threads of processes that are started meanwhile sleep while they wait for each other.

    Each shard uses as many as the run, or its last bits could differ. Where they are more than there are processors,
    those that wait as usual, turning in circles, hold up those that work: two shards took ten times as long as one.
    """
    before = os.environ.get(_WAIT)
    os.environ.setdefault(_WAIT, "passive")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_WAIT, None)


def _threads(config: FanOutConfig, device: str, shards: int, stack: ExitStack) -> Engine:
    name = secrets.token_hex(8)
    stop = STOPS[name] = threading.Event()
    stack.callback(STOPS.pop, name)
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=shards)
    stack.enter_context(runner)
    stack.push(_if_left_by_an_exception(stop.set))
    return Engine(runner, shards, name)


def _processes(config: FanOutConfig, device: str, shards: int, stack: ExitStack) -> Engine:
    # a pipe, not an event: to set one hangs when a process that waited for it was killed
    watched, held = multiprocessing.get_context("spawn").Pipe(duplex=False)
    stack.enter_context(watched)
    stack.enter_context(held)
    runner = ProcessPoolTaskRunner(max_workers=shards, initializer=end_with, initargs=(watched,))
    stack.enter_context(runner)
    stack.push(_if_left_by_an_exception(held.close))
    return Engine(runner, shards)


def _dask(config: FanOutConfig, device: str, shards: int, stack: ExitStack) -> Engine:
    import dask

    stack.enter_context(dask.config.set({"logging.distributed": "critical"}))  # looked at when it is imported
    from prefect_dask import DaskTaskRunner

    wanted = {"GPU": config.gpus_per_shard} if config.gpus_per_shard else None
    if config.address is None:
        # Dask would restart a worker that loads a large model; and its page's usual port may be taken
        local = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0", "resources": wanted}
        runner = DaskTaskRunner(cluster_kwargs={"n_workers": shards, "silence_logs": logging.CRITICAL, **local})
    else:
        runner = DaskTaskRunner(address=config.address)
    stack.enter_context(runner)
    try:
        workers = runner.client.scheduler_info(n_workers=-1)["workers"]
    except OSError as error:
        raise _no_cluster(config, "scheduler", error) from None
    return Engine(
        runner,
        _some_workers(config, sum(entry["nthreads"] for entry in workers.values())),
        asking=lambda: dask.annotate(resources=wanted) if wanted else nullcontext(),
    )


def _ray(config: FanOutConfig, device: str, shards: int, stack: ExitStack) -> Engine:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # who asks for no GPU sees them as anybody does
    import ray
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    local = {"num_cpus": shards, "include_dashboard": False, "object_store_memory": _RAY_MEMORY}
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    runner = RayTaskRunner(address=config.address, init_kwargs=quiet | (local if config.address is None else {}))
    try:
        stack.enter_context(runner)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(config, "cluster", error) from None
    present = ray.cluster_resources()
    gpus = config.gpus_per_shard
    if gpus is None:
        gpus = 1 if present.get("GPU", 0) >= 1 and device != "cpu" else 0
    places = present.get("GPU", 0) // gpus if gpus else present.get("CPU", 0) if config.address else shards
    return Engine(runner, _some_workers(config, int(places)), asking=lambda: remote_options(num_cpus=1, num_gpus=gpus))


_OPEN: dict[str, Callable[[FanOutConfig, str, int, ExitStack], Engine]] = {
    "threads": _threads,
    "processes": _processes,
    "dask": _dask,
    "ray": _ray,
}


def _no_cluster(config: FanOutConfig, what: str, error: Exception) -> ConfigError:
    if config.address is None:
        raise error
    return ConfigError(f"{ADDRESS}: no {config.engine} {what} answers at {config.address} ({error})")


def _some_workers(config: FanOutConfig, count: int) -> int:
    if count == 0:
        gpus = f" with {config.gpus_per_shard} GPU" if config.gpus_per_shard else ""
        raise ConfigError(f"runtime.fan_out: {config.engine} has no worker{gpus} at {config.address or 'all'}")
    return count


def _if_left_by_an_exception(then: Callable[[], None]) -> Callable[..., None]:
    def leave(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            then()

    return leave
