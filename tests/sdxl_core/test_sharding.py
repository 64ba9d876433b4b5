"""Weights divided among processes: the numbers, bundles and files of an undivided run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file

from sdxl_core.bundle import read_bundle
from sdxl_core.errors import UserError
from sdxl_core.runtime import refuse_foreign_launch
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import TrainingConfig
from tests.sdxl_core.jobs import Jobs, bundle_steps, files, history, run, write_job

FULL: dict[str, Any] = {
    "objective": {"kind": "diffusion"},
    "adapter": {"kind": "full"},
    "max_steps": 4,
    "learning_rate": 1e-3,
    "ema": {"decay": 0.5},
    "export": "best",
    "validation": {"prompts": ["a person"], "every_steps": 2, "loss": {"every_steps": 1, "pictures": 1}},
}
WHOLE = FULL | {"micro_batch_size": 4}
SHARDED = FULL | {"micro_batch_size": 2, "processes": 2, "shard_weights": True}


def run_in_two(job: TrainJob) -> str:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "sdxl_core.train", str(write_job(job))]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def last_bundle(job: TrainJob) -> Path:
    return job.work / "bundles" / f"step-{bundle_steps(job)[-1]:08d}"


def assert_close(ours: Any, theirs: Any, rtol: float = 1e-3, atol: float = 2e-4) -> None:
    """Tensor by tensor: where a gradient is nothing but rounding, Adam moves single numbers by the whole rate."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.shape == theirs[name].shape, name
        difference = (tensor.double() - theirs[name].double()).norm()
        assert float(difference) <= rtol * float(theirs[name].double().norm()) + atol, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": {"kind": "lion"}, "learning_rate": 1e-4, "gradient_checkpointing": True, "ema": None}],
    ids=["adamw", "lion-checkpointing"],
)
def test_divided_weights_learn_what_whole_ones_learn(jobs: Jobs, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Curves with validation losses and gradient norms, bundles, pictures, and the export of the best step."""
    whole, divided = jobs(tmp_path / "whole", **WHOLE | settings), jobs(tmp_path / "divided", **SHARDED | settings)
    assert run(whole)
    run_in_two(divided)
    for ours, theirs in zip(history(divided), history(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    bundles = [read_bundle(last_bundle(job)) for job in (divided, whole)]
    assert_close(bundles[0].weights, bundles[1].weights)
    assert_close(bundles[0].average, bundles[1].average)
    moments = [bundle.optimizer["state"] for bundle in bundles]
    assert moments[0].keys() == moments[1].keys()
    for number, entry in moments[1].items():
        assert {name: value.shape for name, value in entry.items()} == {
            name: value.shape for name, value in moments[0][number].items()
        }
    assert files(divided.out).keys() == files(whole.out).keys()
    exported = [load_file(job.out / "unet" / "diffusion_pytorch_model.safetensors") for job in (divided, whole)]
    assert_close(exported[0], exported[1])
    described = [(job.out / "unet" / "config.json").read_text() for job in (divided, whole)]
    assert described[0] == described[1]


@pytest.mark.slow
def test_a_divided_run_goes_on_bit_for_bit_and_in_one_process_too(jobs: Jobs, tmp_path: Path) -> None:
    straight, cut = jobs(tmp_path / "straight", **SHARDED), jobs(tmp_path / "cut", **SHARDED | {"max_steps": 2})
    run_in_two(straight)
    run_in_two(cut)
    went_on = jobs(tmp_path / "cut", **SHARDED)
    assert "going on from step 2 of 4" in run_in_two(went_on)
    assert files(went_on.out) == files(straight.out)

    run_in_two(jobs(tmp_path / "alone", **SHARDED | {"max_steps": 2}))
    alone = jobs(tmp_path / "alone", **WHOLE).model_copy(
        update={"override": ("training.shard_weights", "training.processes", "training.micro_batch_size")}
    )
    assert run(alone)
    for ours, theirs in zip(history(alone), history(straight), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("rank 1 fails in a pass", "injected into process 1"),
        ("rank 1 runs out of memory", "training.shard_weights cannot take them in smaller passes"),
    ],
)
def test_a_process_that_fails_within_a_pass_ends_all(jobs: Jobs, tmp_path: Path, fault: str, reason: str) -> None:
    """While the other waits for its gradients."""
    job = jobs(tmp_path, **SHARDED | {"validation": None, "export": "last"})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "tests.sdxl_core.faulty", str(write_job(job)), fault]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failures = [event for event in said if event["event"] == "failed"]
    assert reason in failures[0]["message"] and failures[0]["rank"] == 1
    assert bundle_steps(job) == []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one process": ({"processes": 1}, "expected processes > 1"),
    "adapter": ({"adapter": {"kind": "lora"}}, "expected adapter.kind = full"),
    "optimizer": ({"optimizer": {"kind": "adafactor"}}, "take adamw or lion"),
    "compiled": ({"compile": "blocks"}, "expected compile = none"),
    "fp16": ({"precision": "fp16"}, "expected precision = bf16 or fp32"),
    "rounding": ({"trained_weights": "bf16", "precision": "bf16"}, "expected trained_weights = fp32"),
    "texts": ({"text_encoders": {}}, "text_encoders are not divided"),
    "tokens": ({"new_tokens": [{"token": "<it>"}]}, "train them in a run of their own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_divided_is_refused(case: str) -> None:
    changed, message = REFUSED[case]
    plain = {"adapter": {"kind": "full"}, "processes": 2, "shard_weights": True}
    assert TrainingConfig.model_validate(plain).shard_weights
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate(plain | changed)


@pytest.mark.parametrize("plugin", ["FSDP", "DEEPSPEED"])
def test_a_launch_with_a_plugin_of_accelerate_is_refused(monkeypatch: pytest.MonkeyPatch, plugin: str) -> None:
    refuse_foreign_launch()
    monkeypatch.setenv(f"ACCELERATE_USE_{plugin}", "true")
    with pytest.raises(UserError, match=r"Set training\.shard_weights=true"):
        refuse_foreign_launch()
