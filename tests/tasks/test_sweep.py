"""What died without the server's noticing is scheduled again, and what lives is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from tasks.manifest import Json
from tasks.serving.api import Api
from tasks.serving.sweep import Sweeper
from tasks.worker_gone import STARTED_BY_WORKER


class Server(Api):
    """Stands in for a server: what it would answer, and what it was asked to schedule."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1/api")
        self.dead: set[str] = set()
        self.taken: dict[str, datetime] = {}
        self.again: list[str] = []

    def crashed(self, pool: str) -> set[str]:
        return set(self.dead)

    def pending(self, pool: str, since: datetime) -> set[str]:
        return {run for run, at in self.taken.items() if at < since}

    def schedule_again(self, run: str, message: str) -> None:
        self.again.append(run)


def look(server: Server, times: int) -> list[str]:
    sweeper = Sweeper(server, "pool")
    for _ in range(times):
        sweeper._due = 0.0
        sweeper.sweep()
    return server.again


def test_a_crash_is_seen_twice_before_it_counts() -> None:
    server = Server()
    server.dead = {"one"}
    assert look(server, 1) == []
    assert look(server, 2) == ["one"]


def test_a_run_that_no_process_came_of_is_lost_and_one_that_is_starting_is_not() -> None:
    server, now = Server(), datetime.now(UTC)
    environment = {**os.environ, STARTED_BY_WORKER: "slow"}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment) as process:
        time.sleep(0.3)
        server.taken = {"lost": now - timedelta(minutes=5), "slow": now - timedelta(minutes=5), "new": now}
        assert look(server, 2) == ["lost"]
        process.kill()


class Answering(Api):
    """With what a server says of runs that crashed before they began."""

    def __init__(self, message: str, crashes: int) -> None:
        super().__init__("http://127.0.0.1:1/api")
        self._message, self._states = message, [{"type": "PENDING"}, {"type": "CRASHED"}] * crashes

    def _ask(self, method: str, path: str, body: Json = None) -> Json:
        if path == "/flow_runs/filter":
            return [{"id": "one", "run_count": 0, "state": {"message": self._message}}]
        assert path == "/flow_run_states/?flow_run_id=one"
        return self._states


@pytest.mark.parametrize(
    ("message", "crashes", "again"),
    [
        ("Process exited with status code: -9. Process exited due to a SIGKILL signal.", 1, {"one"}),
        ("Process exited with status code: -9. Process exited due to a SIGKILL signal.", 3, set()),
        ("Process exited with status code: 1", 1, set()),
    ],
)
def test_what_was_killed_before_it_began_is_tried_again_a_few_times(
    message: str, crashes: int, again: set[str]
) -> None:
    assert Answering(message, crashes).crashed("pool") == again
