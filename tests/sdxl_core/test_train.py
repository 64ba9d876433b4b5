"""What a training run computes and leaves, as its users run it: a job file, bundles, an export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from sdxl_core.adapters import Addition, load_trained
from sdxl_core.bundle import read_bundle
from sdxl_core.errors import UserError
from sdxl_core.exit_codes import EXIT_DONE, EXIT_USER_ERROR
from sdxl_core.main_process import trainer_of
from sdxl_core.prompts import prompt_seed
from sdxl_core.train import main
from sdxl_core.train_job import TrainJob
from tests.sdxl_core.jobs import LORA, SAMPLING, Jobs, bundle_steps, files, history, run, write_job
from tests.sdxl_core.test_priors import started

VALIDATION = {"every_steps": 3, "prompts": ["a photo of a person"]}


def losses(job: TrainJob) -> list[float]:
    assert run(job)
    return [row["loss"] for row in history(job)]


@pytest.mark.ci
def test_run_leaves_every_promised_file(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, validation=VALIDATION)
    assert run(job)
    left = files(job.out)
    assert {"pytorch_lora_weights.safetensors", "kohya_lora.safetensors", "history.jsonl", "training.json"} <= set(left)
    assert [n for n in left if n.startswith("validation/")] == ["validation/000003-00.png", "validation/000006-00.png"]
    assert [row["step"] for row in history(job)] == [1, 2, 3, 4, 5, 6]
    assert bundle_steps(job) == [4, 6]


@pytest.mark.ci
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_validation_pictures_do_not_disturb_training(jobs: Jobs, tmp_path: Path, precision: str) -> None:
    """Nor casts what is trained: with and without them, the same history and the same float32 weights."""
    plain = jobs(tmp_path / "plain", precision=precision)
    watched = jobs(tmp_path / "watched", precision=precision, validation={**VALIDATION, "every_steps": 1})
    for job in (plain, watched):
        assert run(job)
    ends = [read_bundle(job.work / "bundles" / "step-00000006") for job in (plain, watched)]
    assert ends[0].history == ends[1].history
    for name, weight in ends[0].weights.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, ends[1].weights[name])


def test_split_of_a_step_does_not_change_what_is_computed(jobs: Jobs, tmp_path: Path) -> None:
    """Four rows at once, or two and two: the same noise, timesteps, pictures; equal but for rounding."""
    whole = jobs(tmp_path / "a", micro_batch_size=4, adapter=LORA, max_steps=2)
    split = jobs(tmp_path / "b", micro_batch_size=2, accumulation_steps=2, adapter=LORA, max_steps=2)
    for job in (whole, split):
        assert run(job)
    for a, b in zip(history(whole), history(split), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_base_weights_are_untouched_and_every_adapter_weight_learns(jobs: Jobs, tmp_path: Path) -> None:
    before = (jobs.model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    job = jobs(tmp_path, ema=None)
    assert run(job)
    assert (jobs.model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before
    weights = load_file(job.out / "pytorch_lora_weights.safetensors")
    assert weights and all(w.dtype == torch.float32 and bool(w.any()) for w in weights.values())


@pytest.mark.ci
def test_full_training_moves_every_weight_and_leaves_a_diffusers_folder(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, adapter={"kind": "full"}, ema=None, learning_rate=1e-4)
    assert run(job)
    base = UNet2DConditionModel.from_pretrained(jobs.model / "unet").state_dict()
    trained = UNet2DConditionModel.from_pretrained(job.out / "unet").state_dict()
    assert trained.keys() == base.keys()
    assert [name for name in base if torch.equal(base[name], trained[name])] == []
    newest = read_bundle(job.work / "bundles" / "step-00000006")
    assert all(torch.equal(newest.weights[f"unet.{name}"], trained[name]) for name in trained)
    pipeline = StableDiffusionXLPipeline.from_pretrained(jobs.model)
    load_trained(pipeline, Addition(job.out))
    assert all(torch.equal(tensor, trained[name]) for name, tensor in pipeline.unet.state_dict().items())


def test_missing_class_images_are_a_users_mistake(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs(tmp_path).model_copy(update={"class_latents": None})
    assert main([str(write_job(job))]) == EXIT_USER_ERROR
    assert "add a section `prior`" in capsys.readouterr().err
    assert not list(job.out.iterdir())


def test_finished_run_is_exported_again_without_training(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, max_steps=2)
    path = write_job(job)
    assert main([str(path)]) == EXIT_DONE
    written = files(job.out)
    os.rename(job.out, tmp_path / "gone")
    assert main([str(path)]) == EXIT_DONE
    assert files(job.out) == written


def test_checkpointing_trades_time_for_memory_alone(jobs: Jobs, tmp_path: Path) -> None:
    plain = losses(jobs(tmp_path / "a", max_steps=3, adapter=LORA))
    assert losses(jobs(tmp_path / "b", max_steps=3, adapter=LORA, gradient_checkpointing=True)) == pytest.approx(
        plain, rel=1e-5
    )


def test_bf16_keeps_adapters_in_float32_and_the_loss_close(jobs: Jobs, tmp_path: Path) -> None:
    plain = losses(jobs(tmp_path / "a", max_steps=2, adapter=LORA))
    job = jobs(tmp_path / "b", max_steps=2, adapter=LORA, precision="bf16")
    assert losses(job) == pytest.approx(plain, rel=0.02)
    weights = load_file(next((job.work / "bundles").glob("step-*")) / "weights.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}


def test_timesteps_that_there_are_not_are_a_users_mistake(jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.timesteps\.low: expected below 1000"):
        run(jobs(tmp_path, timesteps={"low": 1000}))


def test_float16_on_a_cpu_is_a_users_mistake(jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.precision = fp16 needs a GPU"):
        run(jobs(tmp_path, precision="fp16"))


@pytest.mark.parametrize(("processes", "passes", "rows"), [(1, 2, 2), (2, 1, 2), (2, 2, 1), (4, 1, 1)])
def test_processes_share_out_every_row_of_a_step_once(
    jobs: Jobs, tmp_path: Path, processes: int, passes: int, rows: int
) -> None:
    """None is done twice with the same noise, none is left out."""
    there = started(jobs(tmp_path, micro_batch_size=rows, accumulation_steps=passes, ema=None))
    trainer, done = trainer_of(there), []
    for there.workers.rank in range(processes):
        there.workers.count = processes
        done += [slot for _, slots in trainer._micro_batches() for slot in slots]
    assert sorted(done) == list(range(4))


@pytest.mark.ci
def test_a_validation_picture_is_what_plain_diffusers_draws_with_the_export(jobs: Jobs, tmp_path: Path) -> None:
    """Also of a LoRA that was trained with dropout, which no picture has."""
    prompt = "a photo of a person"
    job = jobs(tmp_path, max_steps=3, validation={"every_steps": 3, "prompts": [prompt], "seed": 0}, learning_rate=0.02)
    assert run(job)
    pipeline = StableDiffusionXLPipeline.from_pretrained(jobs.model, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)

    def drawn() -> np.ndarray:
        noise = torch.Generator("cpu").manual_seed(prompt_seed(0, prompt, 0))
        settings = {"num_inference_steps": SAMPLING.steps, "guidance_scale": SAMPLING.guidance_scale}
        return np.asarray(pipeline(prompt, width=64, height=64, generator=noise, **settings).images[0], dtype=int)

    base = drawn()
    pipeline.load_lora_weights(job.out, weight_name="pytorch_lora_weights.safetensors")
    ours = np.asarray(Image.open(job.out / "validation" / "000003-00.png"), dtype=int)
    assert np.abs(ours - drawn()).max() <= 1 < np.abs(ours - base).max()


@pytest.mark.slow
def test_two_processes_compute_what_one_computes(jobs: Jobs, tmp_path: Path) -> None:
    """Two rows in each of two processes, or four in one: the same rows, noise, timesteps and rates, so one curve."""
    settings = {"adapter": LORA, "max_steps": 3, "validation": {"loss": {"every_steps": 1, "pictures": 1}}}
    settings |= {"warmup_steps": 1, "lr_schedule": "cosine"}
    one = jobs(tmp_path / "one", micro_batch_size=4, **settings)
    assert run(one)
    two = jobs(tmp_path / "two", micro_batch_size=2, **settings)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "sdxl_core.train", str(write_job(two))]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    newest = json.loads((two.work / "bundles" / "step-00000003" / "state.json").read_text())
    assert newest["identity"]["training"]["processes"] == 2
    for ours, theirs in zip(history(one), history(two), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3)
