"""Training jobs at toy size, and what they leave."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from accelerate.state import AcceleratorState

from sdxl_core.config import SamplingConfig
from sdxl_core.scores import PictureScorer
from sdxl_core.train import train
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import TrainingConfig

SAMPLING = SamplingConfig(steps=2, width_px=64, height_px=64)
LORA: dict[str, Any] = {"kind": "lora", "rank": 2}
"""Without dropout, whose masks depend on how a step is split."""
TRAINING: dict[str, Any] = {
    "objective": {"kind": "prior_preservation"},
    "weighting": {"kind": "min_snr"},
    "adapter": {"kind": "lora", "rank": 2, "alpha": 4, "dropout": 0.1},
    "max_steps": 6,
    "micro_batch_size": 2,
    "learning_rate": 1e-3,
    "caption_dropout": 0.3,
    "ema": {"decay": 0.9},
    "save_every_steps": 2,
    "log_every_steps": 2,
}


class Jobs:
    """Makes jobs on one checkpoint and its cached inputs."""

    def __init__(self, model: Path, inputs: dict[str, Path]) -> None:
        self.model = model
        self.inputs = inputs

    def __call__(self, root: Path, device: Literal["cpu", "cuda"] = "cpu", **training: Any) -> TrainJob:
        return TrainJob(
            model=self.model,
            training=TrainingConfig.model_validate(TRAINING | training),
            latents=self.inputs["latents"],
            text=self.inputs["text"],
            class_latents=self.inputs["class_latents"],
            sampling=SAMPLING,
            work=root / "work",
            out=root / "out",
            identity={"data": "d"},
            device=device,
        )


def run(job: TrainJob, scorer: PictureScorer | None = None) -> bool:
    """`train` in this process; accelerate keeps one precision per process, so it is made to forget."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        return train(job, scorer=scorer)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def write_job(job: TrainJob) -> Path:
    """Beside the run's folders, whichever of them there can be."""
    above = next(folder for folder in job.work.parents if folder.is_dir())
    path = above / f"{job.work.parent.name}-job.json"
    path.write_text(job.model_dump_json())
    return path


def start(job: TrainJob, module: str = "sdxl_core.train", *arguments: str) -> subprocess.Popen[str]:
    """The trainer as its users run it: a process of its own."""
    line = [sys.executable, "-m", module, str(write_job(job)), *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    """Read the trainer's events until it has done so many steps."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= step:
            return
    raise AssertionError(f"ended before step {step}: {process.stderr and process.stderr.read()}")


def history(job: TrainJob) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.out / "history.jsonl").read_text().splitlines()]


def bundle_steps(job: TrainJob) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (job.work / "bundles").glob("step-*"))


def files(folder: Path) -> dict[str, bytes]:
    """The finished artifact but for its logs, whose bytes hold the time of day."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "logs" not in p.relative_to(folder).parts
    }
