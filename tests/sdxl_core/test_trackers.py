"""What trackers are told, and that a run that goes on is the same run to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdxl_core.errors import UserError
from sdxl_core.trackers import Wandb
from sdxl_core.training_config import WandbConfig
from tests.sdxl_core.jobs import Jobs, history, run, write_job

SETTINGS: dict[str, Any] = {
    "validation": {"every_steps": 2, "prompts": ["a photo of a person"], "loss": {"every_steps": 2, "pictures": 1}},
    "log_every_steps": 1,
    "keep_bundles": 9,
}


def read_events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


@pytest.mark.ci
def test_tensorboard_has_every_step_once_whatever_interrupted_the_run(jobs: Jobs, tmp_path: Path) -> None:
    assert run(jobs(tmp_path, **SETTINGS, max_steps=3))
    job = jobs(tmp_path, **SETTINGS)
    assert run(job)
    events = read_events(job.work / "logs" / "tensorboard")
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    measured = {event.step: event.value for event in events.Scalars("validation/loss")}
    written = {row["step"]: row["validation/loss"] for row in history(job) if "validation/loss" in row}
    assert list(measured) == [0, 2, 4, 6] and measured == pytest.approx(written)
    (picture_tag,) = events.Tags()["images"]
    assert picture_tag.endswith("a photo of a person")
    assert [event.step for event in events.Images(picture_tag)] == [2, 4, 6]
    for name in ("train/images_per_s", "train/steps_per_s", "train/learning_rate", "train/grad_norm"):
        assert name in events.Tags()["scalars"]
    assert any(name.startswith("train/timesteps/") for name in events.Tags()["scalars"])


def test_no_rate_and_no_time_is_in_the_history(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, max_steps=2)
    assert run(job)
    figures = {name for row in history(job) for name in row if not name.startswith("timesteps/")}
    assert figures == {"step", "loss", "unweighted", "unweighted/prior", "grad_norm", "learning_rate"}


def test_wandb_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[wandb\]'"):
        Wandb(WandbConfig(project="p"), tmp_path, {}, None)


def test_wandb_goes_on_with_the_same_run(jobs: Jobs, tmp_path: Path) -> None:
    """In its offline mode: each start writes a folder of its own, named after the run's id."""
    pytest.importorskip("wandb")
    for steps in (3, 6):
        job = jobs(tmp_path, **SETTINGS, max_steps=steps, wandb={"project": "p"})
        path = write_job(job.model_copy(update={"run_id": "0123456789abcdef"}))
        environment = {**os.environ, "WANDB_MODE": "offline"}
        done = subprocess.run(
            [sys.executable, "-m", "sdxl_core.train", str(path)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    folders = sorted((job.work / "logs" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(folder.name.endswith("-0123456789abcdef") for folder in folders)
    assert all(list(folder.rglob("*.png")) for folder in folders)


def test_wandb_is_told_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = Wandb(WandbConfig(project="p"), tmp_path / "logs", {"seed": 1}, "abc")
    assert (tracker.run.id, tracker.run.project, dict(tracker.run.config)) == ("abc", "p", {"seed": 1})
    tracker.scalars(1, {"loss": 0.5, "validation/loss": 0.25})
    tracker.pictures(1, {"a dog": Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8))})
    tracker.scalars(2, {"loss": 0.4})  # closes the step before
    summary = dict(tracker.run.summary)
    tracker.close()
    assert summary["train/loss"] == 0.5 and summary["validation/loss"] == 0.25
    assert list(summary["validation/pictures"]["captions"]) == ["a dog"]
    assert wandb.run is None
