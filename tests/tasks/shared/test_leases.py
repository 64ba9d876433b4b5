"""Laws of leases: one at a time, and free again when the holder is gone, however it went."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.shared.leases import leased
from tasks.shared.objects import Objects
from tests.processes import CLEAN


def hold(url: str, said: Path) -> None:
    """Take the lease, say so, and keep it until killed."""
    with leased(Objects(url), "thing", lambda holder: None, lambda: False):
        said.write_text("held")
        time.sleep(600)


def never() -> bool:
    return False


def test_one_at_a_time(url: str) -> None:
    objects, inside, most = Objects(url), 0, 0

    def work(number: int) -> None:
        nonlocal inside, most
        with leased(objects, "thing", lambda holder: None, never) as mine:
            assert mine
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            inside -= 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(6)))
    assert most == 1
    assert objects.listed("leases/thing") == []


def test_a_killed_holder_is_followed_and_told_of(file_url: str, tmp_path: Path) -> None:
    holder = CLEAN.Process(target=hold, args=(file_url, tmp_path / "said"))
    holder.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "said").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    waited_for: list[str] = []
    with leased(Objects(file_url), "thing", waited_for.append, never) as mine:
        assert mine
    assert waited_for == [f"process {holder.pid} on {os.uname().nodename}"]


def test_a_living_holder_is_waited_for(file_url: str, tmp_path: Path) -> None:
    """For longer than a lease lasts without a sign of life."""
    objects = Objects(file_url)
    with ThreadPoolExecutor(1) as threads:
        with leased(objects, "thing", lambda holder: None, never):
            began = time.monotonic()
            other = threads.submit(lambda: _taken_after(objects, began))
            time.sleep(5)
            assert not other.done()
        assert other.result() > 5


def test_who_waits_stops_when_the_work_is_done(file_url: str) -> None:
    objects = Objects(file_url)
    with (
        leased(objects, "thing", lambda holder: None, never),
        leased(objects, "thing", lambda holder: None, lambda: True) as mine,
    ):
        assert not mine


def _taken_after(objects: Objects, began: float) -> float:
    with leased(objects, "thing", lambda holder: None, never):
        return time.monotonic() - began


def test_a_lease_whose_answer_was_lost_is_known_again(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request came through, its answer did not, and its repetition is told that there is one already."""
    objects, create = Objects(file_url), Objects.create

    def repeated(self: Objects, name: str, data: bytes) -> bool:
        return create(self, name, data) and create(self, name, data)

    monkeypatch.setattr(Objects, "create", repeated)
    began = time.monotonic()
    with leased(objects, "thing", lambda holder: None, never) as mine:
        assert mine and time.monotonic() - began < 1
