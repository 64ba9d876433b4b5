"""The trainer as its users run it: a process, a job file, bundles, an exported LoRA."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from sdxl_core.bundle import damage
from sdxl_core.config import SamplingConfig, TrainingConfig
from sdxl_core.errors import UserError
from sdxl_core.loop import NonFiniteStepError
from sdxl_core.train import main, train
from sdxl_core.train_job import EXIT_DONE, EXIT_PREEMPTED, EXIT_USER_ERROR, TrainJob

SAMPLING = SamplingConfig(steps=2, width_px=64, height_px=64)
TRAINING: dict[str, Any] = {
    "objective": {"kind": "prior_preservation", "min_snr_gamma": 5},
    "lora": {"rank": 2, "alpha": 4, "dropout": 0.1},
    "max_steps": 6,
    "micro_batch_size": 2,
    "learning_rate": 1e-3,
    "caption_dropout": 0.3,
    "ema": {"decay": 0.9},
    "save_every_steps": 2,
    "log_every_steps": 2,
}


def job(root: Path, model: Path, inputs: dict[str, Path], **training: Any) -> TrainJob:
    return TrainJob(
        model=model,
        training=TrainingConfig.model_validate(TRAINING | training),
        latents=inputs["latents"],
        text=inputs["text"],
        class_latents=inputs["class_latents"],
        sampling=SAMPLING,
        work=root / "work",
        out=root / "out",
        identity={"data": "d"},
        device="cpu",
    )


def history(spec: TrainJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (spec.out / "history.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """The finished artifact but for its logs, whose bytes hold the time of day."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "logs" not in p.relative_to(folder).parts
    }


@pytest.fixture(scope="module")
def undisturbed(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed")
    validation = {"every_steps": 3, "prompts": ["a photo of a person"]}
    assert train(job(root, random_sdxl, cached_inputs, validation=validation))
    return files(root / "out")


def test_run_leaves_every_promised_file(undisturbed: dict[str, bytes]) -> None:
    assert {"pytorch_lora_weights.safetensors", "kohya_lora.safetensors", "history.jsonl", "training.json"} <= set(
        undisturbed
    )
    assert [n for n in undisturbed if n.startswith("validation/")] == [
        "validation/000003-00.png",
        "validation/000006-00.png",
    ]
    steps = [json.loads(line)["step"] for line in undisturbed["history.jsonl"].splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_killed_run_ends_with_the_same_bytes(
    undisturbed: dict[str, bytes], random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    """kill -9 after the first bundle; the next run goes on and writes what an undisturbed run writes."""
    spec = job(tmp_path, random_sdxl, cached_inputs, validation={"every_steps": 3, "prompts": ["a photo of a person"]})
    path = tmp_path / "job.json"
    path.write_text(spec.model_dump_json())
    process = subprocess.Popen([sys.executable, "-m", "sdxl_core.train", str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("step") == 4:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "work" / "bundles").glob("step-*"))
    assert train(spec)
    assert files(tmp_path / "out") == undisturbed


def test_sigterm_saves_and_says_so(random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path) -> None:
    spec = job(tmp_path, random_sdxl, cached_inputs, max_steps=5000, log_every_steps=1, save_every_steps=1000)
    path = tmp_path / "job.json"
    path.write_text(spec.model_dump_json())
    process = subprocess.Popen([sys.executable, "-m", "sdxl_core.train", str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_PREEMPTED
    bundles = list((tmp_path / "work" / "bundles").glob("step-*"))
    assert len(bundles) == 1 and damage(bundles[0]) is None


def test_changed_setting_is_refused_by_name(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(job(tmp_path, random_sdxl, cached_inputs, max_steps=2))
    path = tmp_path / "job.json"
    path.write_text(job(tmp_path, random_sdxl, cached_inputs, max_steps=2, learning_rate=2e-3).model_dump_json())
    assert main([str(path)]) == EXIT_USER_ERROR
    assert "training.learning_rate: 0.001 -> 0.002" in capsys.readouterr().err


def test_split_of_a_step_does_not_change_what_is_computed(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Four rows at once, or two and two: the same noise, timesteps, pictures; equal but for rounding."""
    whole = job(tmp_path / "a", random_sdxl, cached_inputs, micro_batch_size=4, lora={"rank": 2}, max_steps=2)
    split = job(
        tmp_path / "b",
        random_sdxl,
        cached_inputs,
        micro_batch_size=2,
        accumulation_steps=2,
        lora={"rank": 2},
        max_steps=2,
    )
    for spec in (whole, split):
        assert train(spec)
    for a, b in zip(history(whole), history(split), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_base_weights_are_untouched_and_every_adapter_weight_learns(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    before = (random_sdxl / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    spec = job(tmp_path, random_sdxl, cached_inputs, ema=None)
    assert train(spec)
    assert (random_sdxl / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before
    weights = load_file(spec.out / "pytorch_lora_weights.safetensors")
    assert weights and all(w.dtype == torch.float32 and bool(w.any()) for w in weights.values())


def test_missing_class_images_are_a_users_mistake(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = job(tmp_path, random_sdxl, cached_inputs).model_copy(update={"class_latents": None})
    path = tmp_path / "job.json"
    path.write_text(spec.model_dump_json())
    assert main([str(path)]) == EXIT_USER_ERROR
    assert "add a section `prior`" in capsys.readouterr().err
    assert not spec.work.exists()


def test_finished_run_is_exported_again_without_training(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "job.json"
    spec = job(tmp_path, random_sdxl, cached_inputs, max_steps=2)
    path.write_text(spec.model_dump_json())
    assert main([str(path)]) == EXIT_DONE
    written = files(spec.out)
    os.rename(spec.out, tmp_path / "gone")
    assert main([str(path)]) == EXIT_DONE
    assert files(spec.out) == written


def losses(spec: TrainJob) -> list[float]:
    """accelerate keeps one precision per process; the trainer is a process of its own, these tests share theirs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train(spec)
    AcceleratorState._reset_state(reset_partial_state=True)
    return [row["loss"] for row in history(spec)]


def test_checkpointing_trades_time_for_memory_alone(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    plain = losses(job(tmp_path / "a", random_sdxl, cached_inputs, max_steps=3, lora={"rank": 2}))
    spec = job(tmp_path / "b", random_sdxl, cached_inputs, max_steps=3, lora={"rank": 2}, gradient_checkpointing=True)
    assert losses(spec) == pytest.approx(plain, rel=1e-5)


def test_bf16_keeps_adapters_in_float32_and_the_loss_close(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    plain = losses(job(tmp_path / "a", random_sdxl, cached_inputs, max_steps=2, lora={"rank": 2}))
    spec = job(tmp_path / "b", random_sdxl, cached_inputs, max_steps=2, lora={"rank": 2}, precision="bf16")
    assert losses(spec) == pytest.approx(plain, rel=0.02)
    weights = load_file(next((spec.work / "bundles").glob("step-*")) / "weights.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}


def test_float16_on_a_cpu_is_a_users_mistake(random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.precision = fp16 needs a GPU"):
        train(job(tmp_path, random_sdxl, cached_inputs, precision="fp16"))


def test_infinite_latents_stop_the_run_before_the_weights_change(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    """A picture whose latents are infinite: the step is refused, and the picture named."""
    shutil.copytree(cached_inputs["latents"], tmp_path / "latents")
    path = tmp_path / "latents" / "latents.safetensors"
    tensors = load_file(path)
    tensors["mean_NVCHW"].fill_(float("inf"))
    save_file(tensors, path)
    inputs = cached_inputs | {"latents": tmp_path / "latents"}
    named = json.loads((tmp_path / "latents" / "index.jsonl").read_text().splitlines()[0])["image_sha256"][:12]
    with pytest.raises(NonFiniteStepError, match=r"step 0: gradient norm is nan; the weights were left") as stopped:
        train(job(tmp_path, random_sdxl, inputs, micro_batch_size=5))
    assert named in str(stopped.value)


@pytest.mark.slow
def test_two_processes_compute_what_one_computes(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Two rows in each of two processes, or four in one: the same rows, noise and timesteps, so the same curve."""
    one = job(tmp_path / "one", random_sdxl, cached_inputs, micro_batch_size=4, lora={"rank": 2}, max_steps=3)
    assert train(one)
    two = job(tmp_path / "two", random_sdxl, cached_inputs, micro_batch_size=2, lora={"rank": 2}, max_steps=3)
    path = tmp_path / "job.json"
    path.write_text(two.model_dump_json())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "sdxl_core.train", str(path)]
    run = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert json.loads((two.out / "training.json").read_text())["processes"] == 2
    for ours, theirs in zip(history(one), history(two), strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-3)
