"""Memory, disk, numbers and processes that give way: nothing is lost, and the reason is said."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdxl_core import disk
from sdxl_core.batch import Batch
from sdxl_core.bundle import read_bundle
from sdxl_core.bundles import damage
from sdxl_core.denoiser import Denoiser
from sdxl_core.exit_codes import EXIT_FAILED, EXIT_USER_ERROR
from sdxl_core.loop import NonFiniteRunError
from sdxl_core.objectives import OBJECTIVES, LossOutput
from sdxl_core.objectives.diffusion import Diffusion
from sdxl_core.train import main
from sdxl_core.train_job import TrainJob
from tests.sdxl_core.jobs import LORA, Jobs, bundle_steps, files, history, run, start, write_job

PLAIN: dict[str, Any] = {"objective": {"kind": "diffusion"}, "adapter": LORA, "ema": None}


class SmallMemory(Diffusion):
    """Runs out of memory with more than so many rows."""

    rows = 2

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput:
        if len(batch.t_B) > self.rows:
            raise torch.OutOfMemoryError("simulated")
        return super().__call__(denoiser, batch)


class NoMemory(SmallMemory):
    rows = 0


@pytest.mark.ci
def test_out_of_memory_makes_passes_smaller_and_the_run_stays_the_same(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = jobs(tmp_path / "whole", **PLAIN, micro_batch_size=6, max_steps=4)
    assert run(whole)
    monkeypatch.setitem(OBJECTIVES, "diffusion", SmallMemory)
    job = jobs(tmp_path / "small", **PLAIN, micro_batch_size=6, max_steps=4)
    assert run(job)
    assert [row["step"] for row in history(job)] == [1, 2, 3, 4]
    for ours, theirs in zip(history(job), history(whole), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    said = capsys.readouterr().out
    assert "out of memory with 6 rows at once" in said and "out of memory with 3 rows at once" in said
    assert read_bundle(job.work / "bundles" / "step-00000004").counters["micro_batch_size"] == 1


@pytest.mark.ci
def test_what_memory_allowed_is_remembered(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on does so in the passes it had, which its last bits depend on."""
    monkeypatch.setitem(OBJECTIVES, "diffusion", SmallMemory)
    straight = jobs(tmp_path / "straight", **PLAIN, micro_batch_size=4)
    assert run(straight)
    assert run(jobs(tmp_path / "halved", **PLAIN, micro_batch_size=4, max_steps=2))
    monkeypatch.setitem(OBJECTIVES, "diffusion", Diffusion)
    job = jobs(tmp_path / "halved", **PLAIN, micro_batch_size=4)
    assert run(job)
    assert files(job.out) == files(straight.out)


def test_a_row_that_never_fits_ends_with_advice(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(OBJECTIVES, "diffusion", NoMemory)
    assert main([str(write_job(jobs(tmp_path, **PLAIN, precision="bf16", micro_batch_size=2)))]) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert "a single row does not fit" in said and "training.gradient_checkpointing=true" in said
    assert "precision" not in said and "micro_batch_size" not in said, "what is done already is no advice"


def with_latents_of(jobs: Jobs, folder: Path, pictures: slice, value: float) -> tuple[Jobs, list[str]]:
    """The same inputs with some pictures' latents replaced, and the names (sha256) of these pictures."""
    shutil.copytree(jobs.inputs["latents"], folder)
    tensors = load_file(folder / "latents.safetensors")
    tensors["mean_NVCHW"][pictures] = value
    save_file(tensors, folder / "latents.safetensors")
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    return Jobs(jobs.model, {**jobs.inputs, "latents": folder}), [row["image_sha256"] for row in rows[pictures]]


def test_a_step_that_is_not_finite_is_left_out_and_its_picture_named(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of five pictures is infinite. Every epoch one step meets it; the weights never do."""
    spoilt, names = with_latents_of(jobs, tmp_path / "latents", slice(2, 3), math.inf)
    job = spoilt(tmp_path, **PLAIN, micro_batch_size=1, max_steps=15, save_every_steps=5)
    assert run(job)
    rows = history(job)
    left_out = [row["step"] for row in rows if row["loss"] is None]
    assert len(left_out) == 3 and [(step - 1) // 5 for step in left_out] == [0, 1, 2]
    saved = read_bundle(job.work / "bundles" / "step-00000015")
    assert saved.counters["skipped_in_all"] == 3
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved.weights.values())
    assert capsys.readouterr().out.count(f"not finite with picture (sha256) {names[0][:12]}") == 3
    assert json.loads((job.out / "training.json").read_text())["skipped_steps"] == 3


@pytest.mark.parametrize("limit", [0, 2])
def test_too_many_in_a_row_end_the_run_with_the_last_good_bundle(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    assert run(jobs(tmp_path, **PLAIN, max_steps=2))
    good = (tmp_path / "work" / "bundles" / "step-00000002" / "weights.safetensors").read_bytes()
    spoilt, names = with_latents_of(jobs, tmp_path / "latents", slice(0, 5), math.nan)
    job = spoilt(tmp_path, **PLAIN, save_every_steps=1, keep_bundles=9, max_skipped_steps=limit)
    with pytest.raises(NonFiniteRunError, match=rf"not finite {limit + 1} times in a row") as stopped:
        run(job)
    assert any(name[:12] in str(stopped.value) for name in names)
    for step in bundle_steps(job):
        bundle = job.work / "bundles" / f"step-{step:08d}"
        assert damage(bundle) is None and (bundle / "weights.safetensors").read_bytes() == good
    assert bundle_steps(job) == list(range(2, 3 + limit))


class Exploding(Diffusion):
    """A loss that is finite with a gradient that is not, as an overflow in the backward pass makes it."""

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput:
        output = super().__call__(denoiser, batch)
        if output.loss.requires_grad:
            output.loss.register_hook(lambda gradient: gradient * math.inf)
        return output


def test_a_gradient_that_is_not_finite_is_caught_before_the_optimizer(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES, "diffusion", Exploding)
    with pytest.raises(NonFiniteRunError, match=r"loss [\d.]+, gradient norm (nan|inf); every picture's own loss is"):
        run(jobs(tmp_path, **PLAIN, max_skipped_steps=0))


def test_no_room_for_the_bundles_is_told_before_the_first_step(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 12_345)
    job = jobs(tmp_path, adapter={"kind": "full"})
    assert main([str(write_job(job))]) == EXIT_USER_ERROR
    assert "training with keep_bundles = 2 needs 0." in (said := capsys.readouterr().err)
    assert "0.00 GB are free" in said
    assert bundle_steps(job) == []


@pytest.mark.ci
def test_a_disk_that_fills_up_keeps_what_was_saved(jobs: Jobs, tmp_path: Path) -> None:
    """The operating system refuses every file above a few kilobytes."""
    assert run(jobs(tmp_path, **PLAIN, max_steps=2))
    job = jobs(tmp_path, **PLAIN)
    process = start(job, "tests.sdxl_core.faulty", "little room")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_USER_ERROR
    assert "error: file size limit reached while writing to" in errors and "GB are free" in errors
    assert [path.name for path in (job.work / "bundles").iterdir()] == ["step-00000002"]
    assert damage(job.work / "bundles" / "step-00000002") is None
    assert run(job)


@pytest.mark.parametrize("place", ["work", "out"])
def test_a_place_that_cannot_be_written_is_told_before_anything_loads(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("")
    job = jobs(tmp_path).model_copy(update={place: tmp_path / "file" / "below", "model": tmp_path / "nowhere"})
    assert main([str(write_job(job))]) == EXIT_USER_ERROR
    assert "cannot write there: Not a directory" in capsys.readouterr().err


def launched(job: TrainJob, *module: str) -> subprocess.Popen[str]:
    """Two processes on this machine."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *module]
    return subprocess.Popen(launch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_asked_to_stop_save_once_and_go_on_to_the_same_end(jobs: Jobs, tmp_path: Path) -> None:
    straight = jobs(tmp_path / "straight", **PLAIN)
    assert launched(straight, "sdxl_core.train", str(write_job(straight))).wait(timeout=120) == 0
    job = jobs(tmp_path / "stopped", **PLAIN, save_every_steps=1000, log_every_steps=1)
    process = launched(job, "tests.sdxl_core.faulty", str(write_job(job)), "slow steps")
    assert process.stdout is not None
    next(line for line in process.stdout if '"step": 1' in line)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert said.count('"event": "stopped"') == 2
    assert len(bundle_steps(job)) == 1 and bundle_steps(job)[0] < 6
    assert launched(job, "sdxl_core.train", str(write_job(job))).wait(timeout=120) == 0
    assert files(job.out) == files(straight.out)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["rank 1 fails", "rank 1 is killed", "save fails"])
def test_one_process_that_fails_ends_all(jobs: Jobs, tmp_path: Path, fault: str) -> None:
    """Two processes; within 30 s of the fault both are gone, and the reason is the first that was said."""
    job = jobs(tmp_path, **PLAIN, log_every_steps=1, max_steps=5000)
    process = launched(job, "tests.sdxl_core.faulty", str(write_job(job)), fault)
    assert process.stdout is not None
    events = iter(process.stdout)
    next(line for line in events if '"step": 1' in line)
    began = time.monotonic()
    rest = [json.loads(line) for line in events if line.startswith("{")]
    assert process.wait(timeout=30) == EXIT_FAILED
    assert time.monotonic() - began < 30
    failures = [event for event in rest if event["event"] == "failed"]
    if fault != "rank 1 is killed":
        assert "injected into process" in failures[0]["message"]
