"""The trainer as a child: what it says, and how it ends. The trainer here is a few lines that act one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import TrainingConfig
from tasks import trainer
from tasks.errors import TrainerFailed, TrainerPreempted, TrainerStopped
from tasks.validation_scores import ScorersFile

seen: list[tuple[int, int, str]] = []


def run(job: TrainJob) -> dict[str, object]:
    return trainer.run_trainer(job, (), lambda done, total, note="": seen.append((done, total, note)))


def acted(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    seen.clear()
    monkeypatch.setattr(trainer, "_command", lambda module, job, environment: [sys.executable, "-c", script])


def test_steps_become_progress_and_all_is_kept(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acted(
        monkeypatch,
        "import json\n"
        "print(json.dumps({'event': 'log', 'message': 'from the start'}))\n"
        "print('not json')\n"
        "print(json.dumps({'event': 'progress', 'step': 3, 'max_steps': 4, 'loss': 0.25}))\n",
    )
    assert run(job) == {"steps": 4, "loss": 0.25}
    assert seen == [(3, 4, "loss 0.25")]
    assert (job.work / "logs" / "events.jsonl").read_text().count("\n") == 3


def test_scores_stand_beside_the_loss(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    event = {"event": "progress", "step": 3, "max_steps": 4, "loss": 0.25, "scores": {"clip_i": 0.71234, "face": None}}
    acted(monkeypatch, f"print({json.dumps(event)!r})")
    run(job)
    assert seen == [(3, 4, "loss 0.25 \N{MIDDLE DOT} clip_i 0.7123")]


def test_scorers_are_given_to_a_process_that_knows_metrics(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        trainer, "_command", lambda module, job, environment: asked.append(module) or [sys.executable, "-c", ""]
    )
    run(job)
    trainer.run_trainer(job, (), lambda done, total, note="": None, ScorersFile(metrics=(), weights={}))
    alone, with_metrics = asked
    assert alone == ["sdxl_core.train", str(job.work / "job.json")]
    assert with_metrics == ["tasks.train_process", str(job.work / "job.json"), str(job.work / "scorers.json")]
    assert ScorersFile.model_validate_json((job.work / "scorers.json").read_text()).device == "auto"


def failing(code: int, *failures: dict[str, object]) -> str:
    """A trainer whose processes report failures and end."""
    events = [json.dumps({"event": "failed", "rank": 0, **failure}) for failure in failures]
    return f"import sys; print({chr(10).join(events)!r}); print('noise', file=sys.stderr); sys.exit({code})"


def test_a_refusal_comes_in_the_trainers_words(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acted(monkeypatch, failing(2, {"message": "no such picture", "refused": True}))
    with pytest.raises(UserError, match=r"^no such picture$"):
        run(job)


def test_the_first_failure_is_the_reason(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes: one has a reason, the other only lost its peer."""
    reason = {"message": "KeyError: 7", "rank": 1, "final": False}
    acted(monkeypatch, failing(1, reason, {"message": "RuntimeError: Connection closed by peer", "final": False}))
    with pytest.raises(TrainerStopped, match=r"process 1 of the trainer failed: KeyError: 7; all it said is in .*logs"):
        run(job)


def test_a_failure_that_would_come_again_is_final(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acted(monkeypatch, failing(1, {"message": "NonFiniteRunError: loss nan", "final": True}))
    with pytest.raises(TrainerFailed, match="loss nan"):
        run(job)


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ("""print('{"event": "stopped", "rank": 0}'); sys.exit(75)""", TrainerPreempted, "asked to stop and has saved"),
        ("raise RuntimeError('out of luck')", TrainerStopped, "code 1(.|\n)*out of luck"),
        ("import os; os.kill(os.getpid(), 9)", TrainerStopped, "code 137"),
    ],
)
def test_an_early_end_is_one_to_go_on_from(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, end: str, error: type[Exception], message: str
) -> None:
    acted(monkeypatch, f"import sys; {end}")
    with pytest.raises(error, match=message):
        run(job)


def test_only_this_trainers_complaints_are_quoted(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    for word, other in (("first", "second"), ("second", "first")):
        acted(monkeypatch, f"import sys; print({word!r}, file=sys.stderr); sys.exit(1)")
        with pytest.raises(TrainerStopped, match=word) as stopped:
            run(job)
        assert other not in str(stopped.value)


@pytest.mark.parametrize(
    ("device", "launcher"), [("cuda", "accelerate.commands.launch"), ("cpu", "torch.distributed.run")]
)
def test_several_processes_go_through_a_launcher(job: TrainJob, tmp_path: Path, device: str, launcher: str) -> None:
    two = job.model_copy(update={"device": device, "training": TrainingConfig(processes=2)})
    command = trainer._command(["sdxl_core.train", str(tmp_path / "job.json")], two, {})
    assert launcher in command and "2" in command
    assert command[-3:] == ["-m", "sdxl_core.train", str(tmp_path / "job.json")]


def test_secrets_of_the_environment_are_kept_out_of_its_logs(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "aSecretOfThisTest"
    monkeypatch.setenv("HF_TOKEN", secret)
    acted(
        monkeypatch,
        "import json, os, sys\n"
        "print(json.dumps({'event': 'log', 'message': 'got ' + os.environ['HF_TOKEN']}), flush=True)\n"
        "sys.exit('no access with ' + os.environ['HF_TOKEN'])\n",
    )
    with pytest.raises(TrainerStopped, match=r"no access with \*\*\*"):
        run(job)
    kept = {path.name: path.read_text() for path in (job.work / "logs").iterdir()}
    assert "got ***" in kept["events.jsonl"] and "no access with ***" in kept["errors.log"]
    assert secret not in "".join([caplog.text, *kept.values()])
