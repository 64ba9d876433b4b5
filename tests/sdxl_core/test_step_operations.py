"""What a step asks of a GPU beside the UNet's forward and backward pass and the optimizer: counted, not timed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from sdxl_core.batch import Batch
from sdxl_core.denoiser import Denoiser
from sdxl_core.ema import build_ema
from sdxl_core.estimate import Given
from sdxl_core.estimate.rehearsal import Rehearsal
from sdxl_core.hooks import History
from sdxl_core.loop import Trainer, TrainState, rows_per_step
from sdxl_core.scheduler import load_noise_schedule
from sdxl_core.stepping import build_stepping
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_set import TrainingSet, load_images
from sdxl_core.training_text import CachedText
from sdxl_core.workers import Workers
from tests.sdxl_core.device_watch import META, DeviceWatch, meta_as_gpu
from tests.sdxl_core.jobs import Jobs

__all__ = ["meta_as_gpu"]
pytestmark = pytest.mark.usefixtures("meta_as_gpu", "on_meta")

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": {"kind": "lora", "rank": 2}},
    "dreambooth": {"adapter": {"kind": "lora", "rank": 2}, "objective": {"kind": "prior_preservation"}},
    "full": {"adapter": {"kind": "full"}},
}
MOST_OPERATIONS = 70
"""Small ones, of one step beside the UNet and the optimizer: noising, loss, norm, clipping, figures by timestep."""
MOST_WAITS = 1
"""Whether the step is finite."""
PRODUCTS = ("conv", "mm", "bmm", "addmm", "attention", "linear", "embedding")


@pytest.fixture
def on_meta() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Watched:
    """A training whose device is the meta device: the loop's own classes on real cached inputs."""

    def __init__(self, jobs: Jobs, work: Path, **training: Any) -> None:
        self.config = TrainingConfig.model_validate({"micro_batch_size": 2, "log_every_steps": 3} | training)
        there = Rehearsal(Given(jobs.model, jobs.model / "vae", 64), self.config, META)
        accelerator, workers = Accelerator(cpu=True), Workers(1, 0)
        accelerator.state.device = META
        schedule = load_noise_schedule(jobs.model, self.config.schedule)
        rows = rows_per_step(self.config, 1)
        self.data = TrainingSet(
            load_images(jobs.inputs["latents"]),
            load_images(jobs.inputs["class_latents"]) if there.objective.uses_class_images else None,
            CachedText.load(jobs.inputs["text"]),
            config=self.config,
            scaling_factor=1.0,
            timesteps=schedule.timesteps,
            rows_per_step=rows,
        )
        self.state = TrainState(
            Denoiser(there.networks, schedule.to(META), self.config, there.base),
            there.trainable,
            build_stepping(self.config, there.trainable, accelerator, workers, rows),
            build_ema(self.config.ema, there.trainable),
            self.config.micro_batch_size,
        )
        self.trainer = Trainer(self.state, self.data, there.objective, accelerator, workers, self.config, print)
        self.history = History(work / "history.jsonl", self.config, "", [], begin=0, rows_per_step=rows)
        self.step()  # the optimizer makes its state

    def step(self) -> DeviceWatch:
        """The loop's next step with its history, watched."""
        self.config = self.config.model_copy(update={"max_steps": self.state.step + 1})
        self.trainer.config = self.config
        with DeviceWatch() as watch:
            self.trainer.fit([self.history])
        return watch

    def beside(self) -> Counter[str]:
        """Operations of a step that are neither the bare UNet's nor the optimizer's."""
        with DeviceWatch() as bare:
            self.bare()
        with DeviceWatch() as update:
            self.state.stepping.optimizer.step()
        all_of_it = self.step().operations
        all_of_it.subtract(bare.operations)
        all_of_it.subtract(update.operations)
        return all_of_it

    def bare(self) -> None:
        """The UNet's forward and backward pass on inputs of a step's shapes."""
        self.state.stepping.begin(self.state.step)
        batch = self.batch().map(lambda tensor: tensor.to(META))
        condition = batch.conditioning
        added = {"text_embeds": condition.text.pooled_BP, "time_ids": condition.time_ids_B6}  # type: ignore[union-attr]
        unet = self.state.denoiser.networks.unet
        out: Tensor = unet(batch.x_BCHW, batch.t_B, condition.text.text_BSE, added_cond_kwargs=added).sample  # type: ignore[union-attr]
        out.backward(torch.empty_like(out))  # type: ignore[no-untyped-call]

    def batch(self) -> Batch:
        return self.data.batch(self.state.step, range(self.config.micro_batch_size))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_the_unet_and_little_else(jobs: Jobs, tmp_path: Path, method: str) -> None:
    beside = Watched(jobs, tmp_path, **METHODS[method]).beside()
    print(beside)
    assert min(beside.values()) >= 0
    assert sum(beside.values()) <= MOST_OPERATIONS, beside.most_common(20)
    assert not [name for name, times in beside.items() if times and any(product in name for product in PRODUCTS)]
