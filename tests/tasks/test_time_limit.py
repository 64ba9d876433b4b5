"""Limits of time: what they interrupt, and what they count."""

from __future__ import annotations

import importlib
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tasks
from sdxl_core.train_job import TrainJob
from tasks import trainer
from tasks.config import TimeoutHours
from tasks.errors import StageTimedOut
from tasks.slots import Slot
from tasks.stage import Call, Conditions, Job, Stage, materialise
from tasks.store import ArtifactStore
from tasks.time_limit import time_limit
from tests.tasks.test_supervise import wait_for, wait_gone

LISTENING = """
import json, os, signal, sys, time
def stop(number, frame):
    print(json.dumps({"event": "stopped", "rank": 0}))
    open(sys.argv[2], "w").write("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""


def test_time_that_is_up_ends_whatever_runs() -> None:
    started = time.monotonic()
    said = r"^train: stopped after 3e-05 h, the limit that runtime.x sets; run"
    with pytest.raises(StageTimedOut, match=said), time_limit(0.108, "train", "runtime.x"):
        try:
            time.sleep(60)
        except Exception:  # as a handler of files that do not read would
            pytest.fail("taken for an error of the work's")
    assert time.monotonic() - started < 30
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_what_ends_in_time_is_left_alone() -> None:
    with time_limit(0.2, "train", "runtime.x"):
        pass
    time.sleep(0.3)


@pytest.mark.ci
def test_a_trainer_saves_and_is_gone(job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, saved = tmp_path / "pid", tmp_path / "saved"
    line = [sys.executable, "-c", LISTENING, str(pid), str(saved)]
    monkeypatch.setattr(trainer, "_command", lambda module, job, environment: line)
    with pytest.raises(StageTimedOut), time_limit(3.0, "train", "runtime.x"):
        trainer.run_trainer(job, (), lambda done, total, note="": None)
    assert saved.read_text() == "saved"
    wait_gone(wait_for(pid))


def test_waiting_for_a_device_does_not_count(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def slow(*given: object) -> Iterator[Slot]:
        time.sleep(0.5)
        yield Slot("cpu")

    monkeypatch.setattr("tasks.stage.device_slot", slow)

    def build(job: Job) -> dict[str, object]:
        (job.out / "made").touch()
        return {}

    stage = Stage(kind="text", version="1", build=build)
    materialise(Call(stage, "text", {}), store, "cpu", Conditions(limit_s=0.4))


def test_every_stage_can_be_limited() -> None:
    """And nothing else: a new stage has to be named in the configuration."""
    names = [path.stem for path in sorted(Path(tasks.__path__[0]).glob("*.py")) if " = Stage(" in path.read_text()]
    modules = [importlib.import_module(f"tasks.{name}") for name in names]
    stages = {value.kind for module in modules for value in vars(module).values() if isinstance(value, Stage)}
    assert stages == set(TimeoutHours.model_fields)
