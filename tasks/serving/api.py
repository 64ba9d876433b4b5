"""The few things asked of a Prefect server by a process that does not load Prefect."""

from __future__ import annotations

import base64
import json
import os
import time
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from tasks.manifest import Json
from tasks.serving.automations import MOST_RUNS

_TIMEOUT_S = 10
_TRIES, _BUSY_S = 5, 1.0
_BY_SIGNAL = "exited with status code: -"
"""In a worker's words for a process that was killed; one whose code does not import ends with a code of its own."""
_MOST_STARTS = 3


class ServerSilent(Exception):
    """The server did not answer, or not as asked."""


class ServerBusy(ServerSilent):
    """The server may answer next time."""


class Api:
    """Of a server on this machine; its password, if it has one, is the environment's."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self._host, self._port, self._root = parts.hostname, parts.port, parts.path

    def is_healthy(self) -> bool:
        try:
            self._ask("GET", "/health")
        except ServerSilent:
            return False
        return True

    def pause(self, pool: str, paused: bool) -> None:
        """Raises ServerSilent."""
        self._ask("PATCH", f"/work_pools/{pool}", {"is_paused": paused})

    def crashed(self, pool: str) -> set[str]:
        """Ids of the pool's flow runs that crashed within the last day and are worth another try: those that had begun,
        and those that a signal ended before they could, unless that has happened several times. Raises ServerSilent.
        """
        recent = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        asked = {
            "flow_runs": {"state": {"type": {"any_": ["CRASHED"]}}, "end_time": {"after_": recent}},
            "work_pools": {"name": {"any_": [pool]}},
        }
        found = self._ask("POST", "/flow_runs/filter", asked)
        begun = {run["id"] for run in found if 0 < run["run_count"] < MOST_RUNS}
        killed = {run["id"] for run in found if run["run_count"] == 0 and _BY_SIGNAL in (run["state"]["message"] or "")}
        return begun | {run for run in killed if self._crashes(run) < _MOST_STARTS}

    def pending(self, pool: str, since: datetime) -> set[str]:
        """Ids of the pool's flow runs that were taken before `since` and have not begun. Raises ServerSilent."""
        asked = {"flow_runs": {"state": {"type": {"any_": ["PENDING"]}}}, "work_pools": {"name": {"any_": [pool]}}}
        found = self._ask("POST", "/flow_runs/filter", asked)
        return {run["id"] for run in found if datetime.fromisoformat(run["state"]["timestamp"]) < since}

    def _crashes(self, run: str) -> int:
        states = self._ask("GET", f"/flow_run_states/?flow_run_id={run}")
        return sum(state["type"] == "CRASHED" for state in states)

    def state_type(self, run: str) -> str:
        """Raises ServerSilent."""
        found: str = self._ask("GET", f"/flow_runs/{run}")["state_type"]
        return found

    def schedule_again(self, run: str, message: str) -> None:
        """Raises ServerSilent."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": message}
        self._ask("POST", f"/flow_runs/{run}/set_state", {"state": state, "force": True})

    def _ask(self, method: str, path: str, body: Json = None) -> Json:
        """Several times: on SQLite the server refuses now and then while its database is locked."""
        for _ in range(_TRIES - 1):
            try:
                return self._ask_once(method, path, body)
            except ServerBusy:
                time.sleep(_BUSY_S)
        return self._ask_once(method, path, body)

    def _ask_once(self, method: str, path: str, body: Json) -> Json:
        headers = {"Content-Type": "application/json"}
        if secret := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
            headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
        connection = HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, self._root + path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 503:
                raise ServerBusy(f"{method} {path}: {answer.status}")
            if answer.status >= 300:
                raise ServerSilent(f"{method} {path}: {answer.status}")
            return json.loads(content) if content else None
        except (OSError, HTTPException, ValueError) as error:
            raise ServerSilent(f"{method} {path}: {error}") from error
        finally:
            connection.close()
