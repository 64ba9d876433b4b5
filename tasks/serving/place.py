"""What is served where, and the environment and commands that follow from it."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConfigError
from tasks.prefect_home import prefect_places
from tasks.published import VIEW_URL

AUTH = "PREFECT_SERVER_API_AUTH_STRING"
_PORT_WAIT_S = 15
"""The children of a `serve` that was killed need a moment to end, and hold their ports meanwhile."""


@dataclass(frozen=True)
class Place:
    """One `serve`: a folder with its runs and deployments, a store, and addresses."""

    folder: Path
    store: Path
    host: str
    port: int
    view_port: int | None
    """None: no page of reports."""
    pool: str
    store_url: str | None = None
    """Of the store that is shared with other machines; `store` is then the folder of this one's copies."""

    @property
    def url(self) -> str:
        """Of the API, from this machine."""
        return f"{self.page}/api"

    @property
    def page(self) -> str:
        """Of the UI, from this machine."""
        return f"http://{_shown(_reachable(self.host))}:{self.port}"

    @property
    def view(self) -> str | None:
        return None if self.view_port is None else f"http://127.0.0.1:{self.view_port}"

    @property
    def logs(self) -> Path:
        return self.store / "serve"

    def environment(self) -> dict[str, str]:
        """Of all children. What the user has set stays, but for what makes them find each other."""
        chosen = {
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            # another site's page must not read the API through a browser on this machine
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{self.page},http://localhost:{self.port}",
            # the browser knows better than the server by what name it came here
            "PREFECT_UI_API_URL": "/api",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "sdxl_flows",
            **prefect_places(self.store),
            **({VIEW_URL: self.view} if self.view else {}),
            **({"PREFECT_API_AUTH_STRING": os.environ[AUTH]} if os.environ.get(AUTH) else {}),
        }
        ours = {
            "PREFECT_API_URL": self.url,
            "SDXL_FLOWS_HOME": str(self.folder),
            "SDXL_FLOWS_POOL": self.pool,
            "SDXL_FLOWS_STORE": self.store_url or str(self.store),
            **({"SDXL_FLOWS_CACHE": str(self.store)} if self.store_url else {}),
        }
        return {**chosen, **os.environ, **ours}

    def server(self) -> tuple[str, ...]:
        return _python("prefect", "server", "start", "--host", self.host, "--port", str(self.port))

    def worker(self, limit: int) -> tuple[str, ...]:
        name = f"{socket.gethostname()}-{os.getpid()}"
        return _python("prefect", "worker", "start", "--pool", self.pool, "--name", name, "--limit", str(limit))

    def viewer(self) -> tuple[str, ...]:
        return _python("flows.cli", "view", "--port", str(self.view_port), "--runs", str(self.folder / "runs"))

    def deploy(self) -> tuple[str, ...]:
        return _python("flows.cli", "deploy", "--pool", self.pool, "--local")


def check_place(place: Place, open_door: bool) -> None:
    """Raises ConfigError where nothing can, or should, be served.

    `open_door`: whether anybody who reaches the address may start runs.
    """
    if not (place.folder / "prefect.yaml").is_file():
        raise ConfigError(f"{place.folder}: there is no prefect.yaml with deployments; serve in the project's folder")
    if not _is_loopback(place.host) and not os.environ.get(AUTH) and not open_door:
        raise ConfigError(
            f"--host {place.host}: whoever reaches it could start runs and read all. Set {AUTH} to USER:PASSWORD "
            "(clients set PREFECT_API_AUTH_STRING to the same), or say --no-auth"
        )
    for option, host, port in (("--port", place.host, place.port), ("--view-port", "127.0.0.1", place.view_port)):
        if port is not None:
            _require_free(option, host, port)


def _require_free(option: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + _PORT_WAIT_S
    while True:
        try:
            socket.create_server((host, port), family=family).close()
            return
        except OSError as error:
            taken = error.strerror
        if time.monotonic() > deadline:
            raise ConfigError(f"{option} {port}: cannot listen at {host} ({taken}); name another {option}")
        time.sleep(0.5)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str) -> str:
    """From this machine, where the address stands for all of its own."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)
