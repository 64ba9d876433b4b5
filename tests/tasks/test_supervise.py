"""Nothing that the supervisor started outlives it, its parent, or the lock it holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.locks import held_if_free

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="adopting descendants is Linux's")

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""
POLITE = """
import signal, sys, time
def stop(number, frame):
    open(sys.argv[2], "w").write("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[1], "w").write("0")
time.sleep(600)
"""


def supervise(*command: str, grace_s: float = 0.3, hold: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    holds = [argument for descriptor in hold for argument in ("--hold", str(descriptor))]
    line = [sys.executable, "-m", "tasks.supervise", str(grace_s), *holds, "--", sys.executable, "-c", *command]
    return subprocess.Popen(line, stdin=subprocess.PIPE, pass_fds=hold)


def wait_for(path: Path) -> list[int]:
    end = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)
    return [int(word) for word in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def wait_gone(pids: list[int]) -> None:
    end = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


@pytest.mark.parametrize(("code", "seen"), [("0", 0), ("75", 75), ("'a complaint'", 1)])
def test_the_commands_exit_code_is_handed_on(code: str, seen: int) -> None:
    assert supervise(f"import sys; sys.exit({code})").wait(60) == seen


def test_a_commands_death_by_signal_is_handed_on() -> None:
    assert supervise("import os; os.kill(os.getpid(), 9)").wait(60) == 128 + 9


def test_the_end_of_standard_input_stops_stubborn_descendants_too(tmp_path: Path) -> None:
    process = supervise(STUBBORN, str(tmp_path / "pids"))
    pids = wait_for(tmp_path / "pids")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 143
    assert not any(alive(pid) for pid in pids)


def test_a_signal_stops_them_too(tmp_path: Path) -> None:
    process = supervise(STUBBORN, str(tmp_path / "pids"))
    pids = wait_for(tmp_path / "pids")
    process.terminate()
    assert process.wait(60) == 143
    assert not any(alive(pid) for pid in pids)


def test_the_command_has_its_grace(tmp_path: Path) -> None:
    process = supervise(POLITE, str(tmp_path / "up"), str(tmp_path / "saved"), grace_s=20)
    wait_for(tmp_path / "up")
    process.terminate()
    process.wait(60)
    assert (tmp_path / "saved").read_text() == "saved"


def test_a_killed_parent_takes_all_with_it(tmp_path: Path) -> None:
    starter = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE); time.sleep(600)"
    line = [sys.executable, "-m", "tasks.supervise", "0.3", "--", sys.executable, "-c", STUBBORN]
    parent = subprocess.Popen([sys.executable, "-c", starter, *line, str(tmp_path / "pids")])
    pids = wait_for(tmp_path / "pids")
    parent.kill()
    parent.wait()
    wait_gone(pids)


def test_a_killed_supervisor_stops_its_command(tmp_path: Path) -> None:
    process = supervise(POLITE, str(tmp_path / "up"), str(tmp_path / "saved"))
    wait_for(tmp_path / "up")
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while not (tmp_path / "saved").exists():
        assert time.monotonic() < end, "the command was not told"
        time.sleep(0.02)


def test_a_lock_stays_held_while_the_command_lives(tmp_path: Path) -> None:
    import fcntl

    lock = tmp_path / "lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    process = supervise(STUBBORN, str(tmp_path / "pids"), hold=(descriptor,))
    wait_for(tmp_path / "pids")
    os.close(descriptor)
    with held_if_free(lock) as free:
        assert not free
    process.send_signal(signal.SIGINT)
    process.wait(60)
    with held_if_free(lock) as free:
        assert free
