"""The trainer as a child: what it says, and how it ends. The trainer here is a few lines that act one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks import trainer
from tasks.errors import TrainerStopped
from tasks.stage import Job
from tasks.store import ArtifactStore


@pytest.fixture
def job(store: ArtifactStore, tmp_path: Path) -> Job:
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    return Job(
        params={},
        local={},
        inputs={},
        digests={},
        out=tmp_path / "out",
        work=tmp_path / "work",
        inherited=(),
        store=store,
        device="cpu",
        progress=lambda done, total, note="": seen.append((done, total, note)),
    )


seen: list[tuple[int, int, str]] = []


def acted(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    seen.clear()
    monkeypatch.setattr(trainer, "_command", lambda description, processes: [sys.executable, "-c", script])


def test_steps_become_progress_and_all_is_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    acted(
        monkeypatch,
        "import json\n"
        "print(json.dumps({'event': 'log', 'message': 'from the start'}))\n"
        "print('not json')\n"
        "print(json.dumps({'event': 'progress', 'step': 3, 'max_steps': 4, 'loss': 0.25}))\n",
    )
    assert trainer.run_trainer("{}", job, 1) == {"steps": 3, "loss": 0.25}
    assert seen == [(3, 4, "loss 0.25")]
    assert (job.work / "logs" / "events.jsonl").read_text().count("\n") == 3


def test_a_refusal_comes_in_the_trainers_words(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    acted(monkeypatch, "import sys; print('noise\\nerror: no such picture', file=sys.stderr); sys.exit(2)")
    with pytest.raises(UserError, match=r"^no such picture$"):
        trainer.run_trainer("{}", job, 1)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("sys.exit(75)", "asked to stop and has saved"),
        ("raise RuntimeError('out of luck')", "code 1(.|\n)*out of luck"),
        ("import os; os.kill(os.getpid(), 9)", "code 137"),
    ],
)
def test_an_early_end_is_one_to_go_on_from(job: Job, monkeypatch: pytest.MonkeyPatch, end: str, message: str) -> None:
    acted(monkeypatch, f"import sys; {end}")
    with pytest.raises(TrainerStopped, match=message):
        trainer.run_trainer("{}", job, 1)


def test_only_this_trainers_complaints_are_quoted(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("first", "second"):
        acted(monkeypatch, f"import sys; print('error: {word}', file=sys.stderr); sys.exit(2)")
        with pytest.raises(UserError, match=word):
            trainer.run_trainer("{}", job, 1)


def test_several_processes_go_through_accelerate(tmp_path: Path) -> None:
    command = trainer._command(tmp_path / "job.json", 2)
    assert command[command.index("--num_processes") + 1] == "2"
    assert command[-3:] == ["-m", "sdxl_core.train", str(tmp_path / "job.json")]
