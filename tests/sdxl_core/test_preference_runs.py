"""Whole trainings from preferences: stopped, killed, split otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdxl_core.bundle import read_bundle
from sdxl_core.errors import UserError
from sdxl_core.main_process import trainer_of
from sdxl_core.train_job import TrainJob
from tests.sdxl_core.jobs import LORA, Jobs, files, history, run, start, wait_for_step
from tests.sdxl_core.preferring import KINDS, preferring, started
from tests.tiers import first_of

METHODS: dict[str, dict[str, Any]] = {
    **{kind: {"adapter": LORA} for kind in KINDS},
    "dpo full": {"adapter": {"kind": "full"}, "learning_rate": 1e-4},
}


def of(method: str, jobs: Jobs, root: Path, **changed: Any) -> TrainJob:
    return preferring(jobs, root, method.split()[0], **METHODS[method] | changed)


def same_bundles(one: TrainJob, other: TrainJob, step: int) -> bool:
    first, second = (read_bundle(job.work / "bundles" / f"step-{step:08d}") for job in (one, other))
    assert first.weights.keys() == second.weights.keys()
    equal = [torch.equal(first.weights[name], second.weights[name]) for name in first.weights]
    return all(equal) and first.history == second.history


@pytest.mark.parametrize("method", first_of(METHODS))
def test_a_run_that_goes_on_equals_one_that_never_stopped(jobs: Jobs, tmp_path: Path, method: str) -> None:
    """Bit for bit: the reference of the second half is what the first half began with, not what it left."""
    whole = of(method, jobs, tmp_path / "whole")
    assert run(whole)
    assert run(of(method, jobs, tmp_path / "halves", max_steps=2))
    halves = of(method, jobs, tmp_path / "halves").model_copy(update={"out": tmp_path / "second half"})
    assert run(halves)
    assert files(halves.out) == files(whole.out) and same_bundles(halves, whole, 4)


@pytest.mark.ci
def test_a_killed_run_goes_on_as_if_nothing_had_happened(jobs: Jobs, tmp_path: Path) -> None:
    longer = {"max_steps": 30, "log_every_steps": 1}
    killed = of("dpo", jobs, tmp_path / "killed", **longer)
    process = start(killed)
    wait_for_step(process, 5)
    process.kill()
    process.wait()
    assert not (killed.out / "training.json").exists()
    whole = of("dpo", jobs, tmp_path / "whole", **longer)
    assert run(whole) and run(killed)
    assert files(killed.out) == files(whole.out) and same_bundles(killed, whole, 30)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["dpo", "mapo", "sft"])
def test_a_step_is_the_same_in_fewer_rows_at_once(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    splits = ({"micro_batch_size": 4}, {"micro_batch_size": 1, "accumulation_steps": 4})
    done = [preferring(jobs, tmp_path / f"{i}", kind, max_steps=2, **split) for i, split in enumerate(splits)]
    assert all([run(job) for job in done])
    for whole, split in zip(*map(history, done), strict=True):
        assert split == pytest.approx(whole, rel=1e-3, abs=1e-5)


def test_kto_is_not_split_when_memory_does_not_suffice(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are compared with their mean, which fewer rows would change in silence."""
    there = started(preferring(jobs, tmp_path, "kto"))

    def does_not_fit(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(there.state.denoiser, "error", does_not_fit)
    with pytest.raises(UserError, match="compares the rows of a pass with their mean"):
        trainer_of(there).train_step()


def test_every_figure_is_finite_and_by_timestep(jobs: Jobs, tmp_path: Path) -> None:
    job = preferring(jobs, tmp_path, "dpo")
    assert run(job)
    for line in history(job):
        assert None not in line.values()
        assert {"implicit_accuracy", "margin", "preferred/error", "preferred/reference"} <= line.keys()
        assert {"rejected/error", "rejected/reference"} <= line.keys()
        bins = [name for name in line if name.startswith("timesteps/implicit_accuracy/")]
        assert bins and len(bins) == len([name for name in line if name.startswith("timesteps/margin/")])
