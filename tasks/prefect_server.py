"""Prefect's temporary server, in a process that ends with this one.

Prefect's client would start the same server, but load all of it here first: two seconds before the server can begin to
load the same again. That one would also be in this process's group, and so a Ctrl-C, or a SIGTERM to all of the group
(`timeout`, systemd), would end it before the flow could say how it ended.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException

_SERVE = """
import os, signal, socket, sys, threading

def end_with_parent():
    os.read(0, 1)  # nobody writes: this returns when the parent is gone
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_with_parent, daemon=True).start()
import uvicorn
how = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
server = uvicorn.Server(how)
server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
sys.exit(0 if server.started else 3)
"""
_AS_PREFECT_DOES = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
_POLITE_S = 5
_POLL_S = 0.05


class ServerFailed(Exception):
    """It ended, or did not answer in time; the message says which."""


class TemporaryServer:
    """Starts at once and loads while this process does other things. Its port is open from the beginning.

    It stops when this process ends, however that ends: after Prefect has sent what it still has to, because Prefect's
    threads end before functions registered here are called.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._port: int = listening.getsockname()[1]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(listening.fileno())],
                stdin=subprocess.PIPE,
                env={**os.environ, **environment, **_AS_PREFECT_DOES},
                pass_fds=[listening.fileno()],
                start_new_session=True,
            )
        atexit.register(self._stop)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/api"

    def wait(self, timeout_s: float) -> None:
        """Until it answers. Raises ServerFailed."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if (code := self._process.poll()) is not None:
                raise ServerFailed(f"it ended with code {code}")
            if self._answers(left_s):
                return
            time.sleep(_POLL_S)
        raise ServerFailed(f"no answer within {timeout_s:g} s")

    def _answers(self, timeout_s: float) -> bool:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_POLITE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
