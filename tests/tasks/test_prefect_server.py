"""The temporary server's process: when it fails, and that it is never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.prefect_server import ServerFailed, TemporaryServer

OWNER = """
import os, sys, time
from tasks.prefect_server import TemporaryServer
server = TemporaryServer({})
print(server._process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


@pytest.mark.ci
def test_a_server_that_ends_is_told() -> None:
    server = TemporaryServer({"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////nowhere/at/all.db"})
    try:
        with pytest.raises(ServerFailed, match="it ended with code 3"):
            server.wait(timeout_s=240)
    finally:
        server._stop()


def test_a_server_that_is_too_slow_is_told() -> None:
    server = TemporaryServer({})
    try:
        with pytest.raises(ServerFailed, match=r"no answer within 0\.01 s"):
            server.wait(timeout_s=0.01)
    finally:
        server._stop()
    assert server._process.returncode is not None


def test_a_server_outlives_the_groups_signals_but_not_its_owner() -> None:
    """Its owner has to tell it how a flow ended; killed, the owner cannot stop it, and still it goes."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert owner.stdout is not None
    server = int(owner.stdout.readline())
    assert os.getpgid(server) != os.getpgid(owner.pid)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 60
    while alive(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(server)


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
