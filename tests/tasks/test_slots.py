"""Never two on one device, everybody in turn, nothing left held by the dead; with real processes."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdxl_core.errors import UserError
from tasks import slot_queue, slots
from tasks.manifest import Json
from tasks.progress import StageProgress
from tasks.slot_queue import Request, SlotQueue
from tasks.slots import Wish, device_slot, require_devices, slots_folder
from tasks.stage import Call, Conditions, Job, Stage, materialise
from tasks.store import ArtifactStore
from tests.processes import CLEAN
from tests.tasks.test_supervise import STUBBORN, wait_for, wait_gone

DEVICES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_queue, "LAST_POLL_S", 0.05)
    monkeypatch.setattr(slots, "_used", set())
    monkeypatch.delenv("SDXL_FLOWS_SLOTS", raising=False)


def request(*devices: str, count: int = 1, label: str = "train") -> Request:
    return Request(label, "dog", devices, count)


def compete(folder: Path, seed: int) -> None:
    """Take random devices a few times. A lock of the test's own on each tells of any second holder."""
    slot_queue.FIRST_POLL_S, slot_queue.LAST_POLL_S = 0.01, 0.02
    rng = random.Random(seed)
    for _ in range(6):
        devices = tuple(rng.sample(DEVICES, rng.randint(1, len(DEVICES))))
        asked = request(*devices, count=rng.randint(1, len(devices)))
        with SlotQueue(folder / "slots").taken(asked, lambda _: None) as held:
            assert len(held) == asked.count and held.keys() <= set(devices)
            witnesses = [os.open(folder / f"{device}.witness", os.O_RDWR | os.O_CREAT) for device in held]
            for witness in witnesses:
                try:
                    fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    (folder / f"violation-{seed}").write_text(f"{held}")
            time.sleep(rng.uniform(0, 0.03))
            for witness in witnesses:
                os.close(witness)
        (folder / f"done-{seed}").write_text("")


def test_never_two_on_one_device_and_everybody_ends(tmp_path: Path) -> None:
    """Random devices and numbers of them, and every third process killed at a random moment."""
    rng = random.Random(7)
    processes = [CLEAN.Process(target=compete, args=(tmp_path, seed)) for seed in range(9)]
    for process in processes:
        process.start()
    doomed = processes[::3]
    while any(process.is_alive() for process in doomed):
        time.sleep(rng.uniform(0.02, 0.1))
        victim = rng.choice(doomed)
        if victim.is_alive() and victim.pid is not None:
            os.kill(victim.pid, signal.SIGKILL)
    for process in processes:
        process.join(60)
    codes = [process.exitcode for process in processes]
    assert all(code == 0 for place, code in enumerate(codes) if place % 3), codes
    assert -signal.SIGKILL in codes
    assert list(tmp_path.glob("violation-*")) == []
    left = SlotQueue(tmp_path / "slots").look()
    assert (left.holders, left.waiting) == ({}, ())


class Waiter:
    """A request in a thread, which holds what it gets until it is let go."""

    def __init__(self, folder: Path, asked: Request) -> None:
        self.said: list[str] = []
        self.waits, self.has, self._leave = threading.Event(), threading.Event(), threading.Event()
        self.held: list[str] = []
        self._thread = threading.Thread(target=self._work, args=(folder, asked), daemon=True)
        self._thread.start()

    def _work(self, folder: Path, asked: Request) -> None:
        with SlotQueue(folder).taken(asked, self._wait) as held:
            self.held = list(held)
            self.has.set()
            self._leave.wait(60)

    def _wait(self, text: str) -> None:
        self.said.append(text)
        self.waits.set()

    def leave(self) -> None:
        self._leave.set()
        self._thread.join(30)


def test_one_who_needs_many_is_not_overtaken(tmp_path: Path) -> None:
    """Nor is anybody held up who shares no device with those before."""
    first, second = (Waiter(tmp_path, request("a", "b")) for _ in range(2))
    assert first.has.wait(30) and second.has.wait(30) and first.held != second.held
    many = Waiter(tmp_path, request("a", "b", count=2, label="full"))
    assert many.waits.wait(30)
    late = Waiter(tmp_path, request("a", "b", label="images/base"))
    assert late.waits.wait(30)
    apart = Waiter(tmp_path, request("c"))
    assert apart.has.wait(30)
    first.leave()
    seen = len(late.said)
    while len(late.said) < seen + 3:
        time.sleep(0.01)
    assert not late.has.is_set(), "a device is free, and it is not the late one's turn"
    assert late.said[-1] == f"before it comes process {os.getpid()} on {os.uname().nodename} (full of run dog)"
    assert not many.has.is_set(), "one of two is not enough"
    second.leave()
    assert many.has.wait(30) and sorted(many.held) == ["a", "b"]
    many.leave()
    assert late.has.wait(30)
    for waiter in (late, apart):
        waiter.leave()


def wait_in_line(folder: Path, entered: Path) -> None:
    with SlotQueue(folder).taken(request("a"), lambda _: entered.touch()):
        raise AssertionError("the device is held")


def test_who_dies_waiting_holds_up_nobody(tmp_path: Path) -> None:
    holder = Waiter(tmp_path / "slots", request("a"))
    assert holder.has.wait(30)
    waiting = CLEAN.Process(target=wait_in_line, args=(tmp_path / "slots", tmp_path / "entered"))
    waiting.start()
    while not (tmp_path / "entered").exists():
        time.sleep(0.01)
    looked = SlotQueue(tmp_path / "slots").look()
    assert [ticket.words["pid"] for ticket in looked.waiting] == [waiting.pid]
    assert looked.holders["a"]["pid"] == os.getpid() and looked.holders["a"]["run"] == "dog"
    waiting.kill()
    waiting.join()
    holder.leave()
    next_one = Waiter(tmp_path / "slots", request("a"))
    assert next_one.has.wait(30)
    next_one.leave()
    assert list((tmp_path / "slots" / "tickets").iterdir()) == []


def test_who_is_interrupted_while_waiting_leaves_no_ticket(tmp_path: Path) -> None:
    holder = Waiter(tmp_path, request("a"))
    assert holder.has.wait(30)

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), SlotQueue(tmp_path).taken(request("a"), interrupt):
        pass
    assert SlotQueue(tmp_path).look().waiting == ()
    holder.leave()


def test_what_is_waited_for_is_said_at_once_and_every_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(slots, "SAY_EVERY_S", 0.2)
    holder = Waiter(slots_folder(tmp_path), request("gpu-0", label="images/base"))
    assert holder.has.wait(30)
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            holder.leave()

    caplog.set_level("WARNING", "sdxl_flows")
    with device_slot(tmp_path, Wish("train", "auto", 2), tell):
        pass
    who = f"process {os.getpid()} on {os.uname().nodename} (images/base of run dog)"
    assert said[0] == f"waiting for 2 of gpu-0, gpu-1; held by {who}"
    assert said[1] == f"waiting for 0 min for 2 of gpu-0, gpu-1; held by {who}"
    assert [record.getMessage() for record in caplog.records] == [f"train: {text}" for text in said]


def take_note(job: Job) -> dict[str, Json]:
    seen = {"device": job.device, "environment": dict(job.environment), "inherited": len(job.inherited)}
    (job.out / "seen.json").write_text(json.dumps(seen))
    return {}


NOTE = Stage(kind="note", version="1", build=take_note)


def noted(store: ArtifactStore, device: str, devices: int = 1, stage: Stage = NOTE) -> dict[str, Any]:
    call = Call(stage, "note", {"n": len(list(store.manifests()))}, devices=devices)
    ref = materialise(call, store, device, Conditions(run="dog"))
    seen: dict[str, Any] = json.loads((store.path(ref) / "seen.json").read_text())
    return seen


@contextmanager
def busy(store: ArtifactStore, device: str) -> Iterator[None]:
    holder = Waiter(slots_folder(store.root), request(device))
    assert holder.has.wait(30)
    yield
    holder.leave()


def test_what_was_taken_is_what_is_used(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number among the visible for this process, by name for its children."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc,3")
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    with busy(store, "gpu-5"):
        seen = noted(store, "auto")
        assert seen == {"device": "auto:1", "environment": {"CUDA_VISIBLE_DEVICES": "GPU-abc", **order}, "inherited": 2}
        seen = noted(store, "cuda", devices=2)
        assert seen["device"] == "cuda:1" and seen["environment"]["CUDA_VISIBLE_DEVICES"] == "GPU-abc,3"
        assert seen["inherited"] == 3
    assert noted(store, "auto")["device"] == "auto:1", "where this process has been before"
    with busy(store, "gpu-abc"):
        assert noted(store, "auto")["device"] == "auto:2"
    assert noted(store, "cpu") == {"device": "cpu", "environment": {}, "inherited": 1}
    assert noted(store, "auto", stage=replace(NOTE, heavy=False))["device"] == "auto"


def test_processors_have_as_many_places_as_are_allowed(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert noted(store, "auto")["inherited"] == 1
    monkeypatch.setenv("SDXL_FLOWS_CPU_SLOTS", "2")
    with busy(store, "cpu-0"):
        seen = noted(store, "auto", devices=4)
    assert seen == {"device": "auto", "environment": {}, "inherited": 2}
    with busy(store, "cpu-0"), busy(store, "cpu-1"):
        assert noted(store, "cpu", stage=replace(NOTE, heavy=False))["inherited"] == 1
        waiter = Waiter(slots_folder(store.root), request("cpu-0", "cpu-1"))
        assert waiter.waits.wait(30)
    assert waiter.has.wait(30)
    waiter.leave()


@pytest.mark.parametrize(
    ("visible", "device", "count", "said"),
    [
        (
            "0,1",
            "auto",
            3,
            r"train: expected 3 GPUs, got 2 visible here \(gpu-0, gpu-1\). Lower training.processes, or",
        ),
        ("", "cuda", 1, "train: expected 1 GPU, got 0 visible here. Look at CUDA_VISIBLE_DEVICES"),
        ("", "cuda", 2, "expected 2 GPUs, got 0 visible here"),
    ],
)
def test_more_than_there_are_is_refused(
    visible: str, device: str, count: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=said):
        require_devices(Wish("train", device, count))


def test_folders_of_slots_can_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert slots_folder(tmp_path).parent == tmp_path / "locks" / "devices"
    monkeypatch.setenv("SDXL_FLOWS_SLOTS", str(tmp_path / "machine"))
    assert slots_folder(tmp_path / "one") == slots_folder(tmp_path / "another") == tmp_path / "machine"


HOLD_AND_TRAIN = """
import subprocess, sys, time
from pathlib import Path
from tasks.slots import Wish, device_slot
with device_slot(Path(sys.argv[1]), Wish("train", "auto", 2), lambda _: None) as slot:
    holds = [word for lock in slot.descriptors for word in ("--hold", str(lock))]
    line = [sys.executable, "-m", "tasks.supervise", "1.5", *holds, "--", sys.executable, "-c", *sys.argv[2:]]
    subprocess.Popen(line, stdin=subprocess.PIPE, pass_fds=slot.descriptors)
    time.sleep(600)
"""


def test_all_devices_stay_held_until_the_trainer_is_really_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 of the flow; the trainer here does not listen, and has children in sessions of their own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    flow = subprocess.Popen([sys.executable, "-c", HOLD_AND_TRAIN, str(tmp_path), STUBBORN, str(tmp_path / "pids")])
    pids = wait_for(tmp_path / "pids")
    flow.kill()
    flow.wait()
    queue = SlotQueue(slots_folder(tmp_path))
    assert sorted(queue.look().holders) == ["gpu-0", "gpu-1"]
    with device_slot(tmp_path, Wish("images/base", "auto", 2), lambda _: None):
        wait_gone(pids)  # they are, at once
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_progress_says_what_is_waited_for() -> None:
    shown: list[str] = []
    progress = StageProgress([(lambda done, total, note="": shown.append(f"{done}/{total}"), shown.append)])
    progress.waiting("")
    progress.waiting("waiting for gpu-0")
    progress.waiting("")
    progress(1, 2)
    assert shown == ["waiting for gpu-0", "", "1/2"]
