"""Runs that died and that the server's automations did not come to, or would come to late.

Prefect's server gives an event up after a few tries within a tenth of a second, and on SQLite that happens while others
write much: "database is locked". The event that ends a run's life may be among those.

A run whose worker was killed between taking it and starting it sends no event at all, ever. On this machine one can
look whether its process is there.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psutil

from tasks.serving.api import Api, ServerSilent
from tasks.worker_gone import STARTED_BY_WORKER

_LOG = logging.getLogger("sdxl_flows")
_EVERY_S = 30.0
_STARTS_WITHIN = timedelta(minutes=2)
"""A worker needs seconds to start a process, on a busy machine half a minute."""


class Sweeper:
    """Schedules again what is seen dead twice, half a minute apart."""

    def __init__(self, api: Api, pool: str) -> None:
        self._api, self._pool = api, pool
        self._seen: set[str] = set()
        self._due = 0.0

    def sweep(self) -> None:
        """Does nothing until it is time again, nor while the server is away."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _EVERY_S
        try:
            self._look()
        except ServerSilent:
            return

    def _look(self) -> None:
        crashed = self._api.crashed(self._pool)
        lost = self._api.pending(self._pool, datetime.now(UTC) - _STARTS_WITHIN)
        lost -= runs_here() if lost else set()
        for run in (crashed | lost) & self._seen:
            _LOG.warning("run %s died, and the server did not see to it; scheduling it again", run)
            self._api.schedule_again(run, "begun again by itself")
        self._seen = crashed | lost


def runs_here() -> set[str]:
    """Ids of the flow runs that have a process on this machine, of those that one may look at."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found.add(process.environ().get(STARTED_BY_WORKER, ""))
    return found - {""}
