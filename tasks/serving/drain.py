"""Ending a worker's runs so that the next worker goes on with them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tasks.serving.api import Api, ServerSilent
from tasks.serving.children import Child
from tasks.worker_gone import STARTED_BY_WORKER

_LOG = logging.getLogger("sdxl_flows")
_QUIET_S = 3.0
"""A worker asks every two seconds, and may have been given a run just before the pool was paused."""
_STATE_S = 6.0
_POLL_S = 0.2


def drain(api: Api, pool: str, worker: Child, hurry: Callable[[], bool]) -> None:
    """Give the worker nothing more, let its runs save what they have, stop it, and have its runs scheduled again.

    The pool is paused afterwards. `hurry`: whether somebody wants it over.
    """
    with suppress(ServerSilent):
        api.pause(pool, True)
    told: dict[int, str] = {}
    quiet_since = time.monotonic()
    while not hurry() and time.monotonic() - quiet_since < _QUIET_S:
        for process, run in _flow_processes(worker):
            quiet_since = time.monotonic()
            if process.pid not in told:
                _LOG.info("run %s: saving what it has", run)
                told[process.pid] = run
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
        time.sleep(_POLL_S)
    worker.stop()  # it may still report how its runs ended, and would undo what follows
    for run in sorted(set(told.values())):
        with suppress(ServerSilent):
            _have_scheduled(api, run)


def _flow_processes(worker: Child) -> list[tuple[psutil.Process, str]]:
    """Those that the worker has started, with the ids of their flow runs."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(worker.supervisor).children(recursive=True):
            parent = process.parent()
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                run = process.environ().get(STARTED_BY_WORKER)
                if run and parent is not None and parent.environ().get(STARTED_BY_WORKER) != run:
                    found.append((process, run))
    return found


def _have_scheduled(api: Api, run: str) -> None:
    """The automation for crashed runs does that, if it comes to it before the server is stopped."""
    deadline = time.monotonic() + _STATE_S
    while (state := api.state_type(run)) in ("RUNNING", "PENDING", "CRASHED"):
        if time.monotonic() > deadline:
            api.schedule_again(run, "its worker was stopped")
            break
        time.sleep(_POLL_S)
    if state in ("RUNNING", "PENDING", "CRASHED", "SCHEDULED"):
        _LOG.info("run %s: goes on when `sdxl-flows serve` runs again", run)
