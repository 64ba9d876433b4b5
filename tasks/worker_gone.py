"""A flow that a worker has started ends with it: nobody could cancel it any more, nor start another in its place."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from functools import cache

_LOG = logging.getLogger("sdxl_flows")
STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""In the environment of a process that runs a flow for a worker: which run."""
LOOK_EVERY_S = 2.0


@cache
def end_with_worker() -> None:
    """From now on, stop this process as by SIGTERM when the worker that started it is gone; no worker, no effect.

    Prefect leaves such a process to itself, so that a killed worker's run holds its devices, and a cancellation waits
    for ever. (The kernel's own signal for this is about the thread that started a process, which may end before.)
    """
    if STARTED_BY_WORKER in os.environ:
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="watches the worker").start()


def _watch(worker: int) -> None:
    while os.getppid() == worker:
        time.sleep(LOOK_EVERY_S)
    _silence()
    try:
        _LOG.warning("the worker (process %d) is gone: stopping", worker)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def _silence() -> None:
    """The worker read what this process writes. On a pipe without a reader, the console of Prefect's log ends the
    thread that writes to it: this one, or the flow's before it has reported its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    os.close(nowhere)
