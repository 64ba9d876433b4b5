"""Server, page of reports, deployments and worker, started in order, kept running, and ended in order."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from tasks.errors import ConfigError
from tasks.locks import held
from tasks.serving.api import Api
from tasks.serving.children import Child, last_lines
from tasks.serving.drain import drain
from tasks.serving.env_file import remove_line, write_line
from tasks.serving.place import Place
from tasks.serving.sweep import Sweeper

_LOG = logging.getLogger("sdxl_flows")
_START_S, _POLL_S = 180, 0.2
_SERVER_GRACE_S = 15.0
_RUN_GRACE_S = 45.0
"""A trainer has twenty seconds for its bundle (`tasks.trainer.GRACE_S`), and what runs around it some more."""


@contextmanager
def only_one(place: Place) -> Iterator[None]:
    """Raises ConfigError where this store is served already."""

    def refuse(holder: str) -> None:
        raise ConfigError(
            f"{place.store}: served already, by {holder}; stop that one, or name another SDXL_FLOWS_STORE"
        )

    with held(place.store / "locks" / "serve.lock", refuse):
        yield


@dataclass
class Stop:
    """Whether SIGINT or SIGTERM asked for the end, and how often."""

    asked: int = 0
    before: dict[int, object] = field(default_factory=dict)

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1


class Stopped(Exception):
    """The end was asked for while something was being started."""


class Service:
    """All of one `serve`."""

    def __init__(self, place: Place, worker_limit: int | None, stop: Stop) -> None:
        self.place, self.stop = place, stop
        self.api = Api(place.url)
        environment = place.environment()
        self.server = Child("server", place.server(), environment, _SERVER_GRACE_S, place.logs / "server.log")
        self.children = [self.server]
        if place.view_port is not None:
            view = Child("page of reports", place.viewer(), environment, 5.0, place.logs / "view.log")
            self.children.append(view)
        self.worker: Child | None = None
        if worker_limit is not None:
            self.worker = Child("worker", place.worker(worker_limit), environment, _RUN_GRACE_S, None)

    def start(self) -> None:
        """Server, page, then the pool with its deployments. The worker is not started yet.

        Raises:
            ConfigError: something does not start; its last words are in the message.
            Stopped: the end was asked for.
        """
        self.place.logs.mkdir(parents=True, exist_ok=True)
        # a server migrates its database when it starts; two that do so to one database at once both fail
        with held(self.place.store / "locks" / "prefect-start.lock", _tell_waiting):
            for child in self.children:
                child.start()
            self._await_server()
        self._deploy()
        self.api.pause(self.place.pool, False)

    def _await_server(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self.api.is_healthy():
            log = self.server.log
            assert log is not None
            if (code := self.server.ended()) is not None:
                raise ConfigError(f"Prefect's server ended with code {code}:\n{last_lines(log)}")
            if time.monotonic() > deadline:
                raise ConfigError(f"Prefect's server gave no answer within {_START_S} s:\n{last_lines(log)}")
            self._sleep()

    def _deploy(self) -> None:
        log = self.place.logs / "deploy.log"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                self.place.deploy(),
                env=self.place.environment(),
                cwd=self.place.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as deploying,
        ):
            try:
                while deploying.poll() is None:
                    self._sleep()
            except Stopped:
                deploying.terminate()
                raise
        if deploying.returncode:
            raise ConfigError(f"the deployments of prefect.yaml were refused:\n{last_lines(log)}")

    def _sleep(self) -> None:
        if self.stop.asked:
            raise Stopped
        time.sleep(_POLL_S)

    def run(self) -> None:
        """Start the worker and keep everything running until the end is asked for."""
        if self.worker is not None:
            self.worker.start()
            self.children.append(self.worker)
        if not write_line(self.place.folder, self.place.url):
            _LOG.warning(".env names a PREFECT_API_URL of its own, which Prefect's commands here go by")
        sweeper = Sweeper(self.api, self.place.pool)
        while not self.stop.asked:
            sweeper.sweep()
            for child in self.children:
                if child.keep():
                    _LOG.info("%s: started again", child.name)
            time.sleep(_POLL_S)

    def end(self) -> None:
        """Runs save and are scheduled again, then everything is stopped. A second signal skips the saving's wait."""
        remove_line(self.place.folder)
        begun = self.stop.asked
        if self.worker in self.children and self.worker is not None:
            drain(self.api, self.place.pool, self.worker, lambda: self.stop.asked > max(begun, 1))
        for child in reversed(self.children):
            child.stop()


def _tell_waiting(holder: str) -> None:
    _LOG.info("waiting for %s, which is starting Prefect", holder)
