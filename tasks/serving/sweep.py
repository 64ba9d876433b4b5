"""Crashed runs that the server's automation did not come to.

Prefect's server gives an event up after a few tries within a tenth of a second, and on SQLite that happens while others
write much: "database is locked". The event that ends a run's life may be among those.
"""

from __future__ import annotations

import logging
import time

from tasks.serving.api import Api, ServerSilent

_LOG = logging.getLogger("sdxl_flows")
_EVERY_S = 30.0


class Sweeper:
    """Schedules again what is seen crashed twice, half a minute apart."""

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
        for run in crashed & self._seen:
            _LOG.warning("run %s crashed, and the server did not see to it; scheduling it again", run)
            self._api.schedule_again(run, "begun again by itself")
        self._seen = crashed
