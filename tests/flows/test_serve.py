"""What `serve` and `deploy` refuse, the line in `.env`, and processes that are kept running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tasks.errors import ConfigError
from tasks.published import VIEW_URL
from tasks.serving import children
from tasks.serving.children import Child
from tasks.serving.env_file import remove_dead_line, remove_line, write_line
from tasks.serving.place import Place, check_place
from tasks.serving.service import only_one
from tests.flows.conftest import REPOSITORY, Cli

URL = "http://127.0.0.1:4200/api"
GONE = f"PREFECT_API_URL={URL}  # by sdxl-flows serve, process 4194305 on {socket.gethostname()}\n"
"""No process has a number that high."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "prefect.yaml").touch()
    return Place(tmp_path, tmp_path / "store", "127.0.0.1", free_port(), None, "toy")


def test_children_share_the_store_that_is_served(place: Place) -> None:
    alone, shared = place.environment(), replace(place, store_url="s3://bucket/sdxl").environment()
    assert alone["SDXL_FLOWS_STORE"] == str(place.store) and alone.get("SDXL_FLOWS_CACHE") is None
    assert (shared["SDXL_FLOWS_STORE"], shared["SDXL_FLOWS_CACHE"]) == ("s3://bucket/sdxl", str(place.store))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


@pytest.mark.parametrize("others", [None, b"", b"SECRET=1\nOTHER='a b'", b"\xff\r\nA=1\n"])
def test_other_lines_of_env_stay_to_the_byte(tmp_path: Path, others: bytes | None) -> None:
    env = tmp_path / ".env"
    if others is not None:
        env.write_bytes(others)
        env.chmod(0o600)
    assert write_line(tmp_path, URL) and write_line(tmp_path, URL)
    assert env.read_bytes().count(b"PREFECT_API_URL") == 1 and env.read_bytes().endswith(others or b"")
    if others:
        assert env.stat().st_mode & 0o777 == 0o600
    remove_line(tmp_path)
    assert (env.read_bytes() if env.exists() else b"") == (others or b"")


def test_an_address_of_the_users_own_is_told_and_stays(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PREFECT_API_URL=http://elsewhere/api\n")
    assert not write_line(tmp_path, URL)
    remove_line(tmp_path)
    assert (tmp_path / ".env").read_text() == "PREFECT_API_URL=http://elsewhere/api\n"


def test_prefect_reads_the_line(tmp_path: Path) -> None:
    write_line(tmp_path, URL)
    code = "from prefect.settings import PREFECT_API_URL; print(PREFECT_API_URL.value())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == URL


def test_only_a_dead_line_of_this_machine_is_removed(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    assert remove_dead_line(tmp_path) is None
    elsewhere = GONE.replace(f"on {socket.gethostname()}", "on another-machine")
    for kept in ("PREFECT_API_URL=http://elsewhere/api\n", elsewhere):
        env.write_text(kept)
        assert remove_dead_line(tmp_path) is None and env.read_text() == kept
    env.write_text(GONE + "A=1\n")
    assert remove_dead_line(tmp_path) == URL
    assert env.read_text() == "A=1\n"


def test_the_line_of_one_that_serves_stays(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()", "serve"], stdin=subprocess.PIPE) as other:
        (tmp_path / ".env").write_text(GONE.replace("4194305", str(other.pid)))
        try:
            assert remove_dead_line(tmp_path) is None
        finally:
            other.kill()


def test_a_run_does_without_a_server_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tasks.prefect_home import _forget_gone_server

    (tmp_path / ".env").write_text(GONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.delenv("PREFECT_API_URL", raising=False)
        _forget_gone_server()
    assert not (tmp_path / ".env").exists()
    assert URL in caplog.text and "its line is removed" in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "somewhere"])
def test_other_machines_need_a_password(place: Place, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    open_place = Place(place.folder, place.store, host, place.port, None, place.pool)
    with pytest.raises(ConfigError, match=r"whoever reaches it .* PREFECT_SERVER_API_AUTH_STRING .* --no-auth"):
        check_place(open_place, open_door=False)


def test_a_password_opens_the_door_and_workers_know_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "a:b")
    open_place = Place(place.folder, place.store, "0.0.0.0", place.port, None, place.pool)
    check_place(open_place, open_door=False)
    assert open_place.environment()["PREFECT_API_AUTH_STRING"] == "a:b"
    assert open_place.url == f"http://127.0.0.1:{place.port}/api"


def test_a_port_that_is_taken_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.serving.place._PORT_WAIT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", place.port)),
        pytest.raises(ConfigError, match=rf"--port {place.port}: cannot listen .* name another --port"),
    ):
        check_place(place, open_door=False)


def test_a_folder_without_deployments_is_told(place: Place) -> None:
    (place.folder / "prefect.yaml").unlink()
    with pytest.raises(ConfigError, match=r"there is no prefect\.yaml"):
        check_place(place, open_door=False)


def test_a_store_is_served_once(place: Place) -> None:
    with only_one(place):
        refused = pytest.raises(ConfigError, match=f"served already, by process {os.getpid()}")
        with refused, only_one(place):
            pass
    with only_one(place):
        pass


def test_the_page_that_the_user_names_goes_before_ours(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VIEW_URL, raising=False)
    shown = Place(place.folder, place.store, place.host, place.port, 7860, place.pool)
    assert shown.environment()[VIEW_URL] == "http://127.0.0.1:7860"
    assert VIEW_URL not in place.environment()
    monkeypatch.setenv(VIEW_URL, "https://reports.example")
    assert shown.environment()[VIEW_URL] == "https://reports.example"


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    monkeypatch.setattr(children, "_FIRST_WAIT_S", 0.05)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    sleeping = Child("sleeper", ["sleep", "600"], environment, 1.0, tmp_path / "log")
    sleeping.start()
    yield sleeping
    sleeping.stop()


def sleeper(child: Child) -> psutil.Process:
    assert child.supervisor is not None
    return within(60, lambda: next(iter(psutil.Process(child.supervisor).children()), None))  # type: ignore[no-any-return]


def within(seconds: float, look: object) -> object:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():  # type: ignore[operator]
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def test_what_is_killed_is_started_again_and_that_is_said(child: Child, caplog: pytest.LogCaptureFixture) -> None:
    first = sleeper(child)
    assert not child.keep()
    first.send_signal(signal.SIGKILL)
    within(30, child.keep)
    assert sleeper(child).pid != first.pid
    assert "sleeper ended with code 137" in caplog.text
    wait = child._wait_s
    sleeper(child).send_signal(signal.SIGKILL)
    within(30, child.keep)
    assert child._wait_s == 2 * wait, "who goes on ending waits ever longer"


def test_nothing_is_left_of_what_is_stopped(child: Child) -> None:
    process = sleeper(child)
    child.stop()
    assert not process.is_running()


def test_a_deploy_without_a_server_says_what_to_do(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    done = cli("deploy")
    assert done.returncode == 2 and "sdxl-flows serve" in done.stderr
    assert cli("deploy", "--pool-type", "hovercraft").returncode == 2
