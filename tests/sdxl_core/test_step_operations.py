"""What a step asks of a GPU beside the UNet's forward and backward pass and the optimizer: counted, not timed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from sdxl_core.batch import Batch, EncodedText
from sdxl_core.cached_images import load_images
from sdxl_core.denoiser import Denoiser
from sdxl_core.ema import build_ema
from sdxl_core.estimate import Given
from sdxl_core.estimate.rehearsal import Rehearsal
from sdxl_core.hooks import History
from sdxl_core.loop import Trainer, TrainState, rows_per_step
from sdxl_core.next_rows import NextRows
from sdxl_core.scheduler import load_noise_schedule
from sdxl_core.stepping import build_stepping
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_set import TrainingSet
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
MOST_OPERATIONS = 80
"""Small ones, of one step beside the UNet and the optimizer: the batch arriving, noising, loss, norm, clipping, figures
by timestep."""
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
        self.config = TrainingConfig.model_validate({"micro_batch_size": 2, "log_every_steps": 2} | training)
        there = Rehearsal(Given(jobs.model, jobs.model / "vae", 64), self.config, META)
        accelerator, workers = Accelerator(cpu=True), Workers(1, 0)
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
        accelerator.state.device = META  # last: accelerate sets it anew where it prepares
        self.trainer = Trainer(self.state, self.data, there.objective, accelerator, workers, self.config, print)
        self.history = History(work / "history.jsonl", self.config, "", [], begin=0, rows_per_step=rows)

    def step(self) -> DeviceWatch:
        """The loop's next step with its history, watched."""
        self.trainer.config = self.config.model_copy(update={"max_steps": self.state.step + 1})
        with DeviceWatch() as watch:
            self.trainer.fit([self.history])
        return watch

    def first_step(self) -> tuple[DeviceWatch, Counter[str]]:
        """All of it, and its operations that are neither the bare UNet's nor the optimizer's, one by one."""
        batch, optimizer = self.batch().to(META), self.state.stepping.optimizer
        with DeviceWatch() as bare:
            self._forward_and_backward(batch)
        optimizer.step()  # makes its state
        with DeviceWatch() as update:
            optimizer.step()
        step = self.step()
        beside = Counter(step.operations)
        beside.subtract(bare.operations + update.operations)
        assert not -beside, "a step leaves out part of the UNet or of the update"
        return step, +beside

    def batch(self) -> Batch:
        return self.data.batch(self.state.step, range(self.config.micro_batch_size))

    def _forward_and_backward(self, batch: Batch) -> None:
        condition, unet = batch.conditioning, self.state.denoiser.networks.unet
        assert isinstance(condition.text, EncodedText)
        added = {"text_embeds": condition.text.pooled_BP, "time_ids": condition.time_ids_B6}
        out: Tensor = unet(batch.x_BCHW, batch.t_B, condition.text.text_BSE, added_cond_kwargs=added).sample
        out.backward(batch.x_BCHW)  # type: ignore[no-untyped-call]


@pytest.mark.ci
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_the_unet_and_little_else(jobs: Jobs, tmp_path: Path, method: str) -> None:
    """No encoder, no decoder, no work for every trained tensor; and the host waits once."""
    watched = Watched(jobs, tmp_path, **METHODS[method])
    arriving = list_of_tensors(watched.batch())
    quiet, beside = watched.first_step()
    logged = watched.step()
    assert sum(beside.values()) <= MOST_OPERATIONS, beside.most_common()
    assert not [name for name in beside if any(product in name for product in PRODUCTS)]
    assert quiet.waits <= MOST_WAITS
    assert len(history_lines(tmp_path)) == 2
    assert logged.waits <= MOST_WAITS + 1, "what is logged is read at once, however many figures and steps"
    for step in (quiet, logged):
        assert step.uploads == len(arriving)
        assert step.uploaded_bytes == sum(tensor.nbytes for tensor in arriving)


@pytest.mark.ci
def test_what_is_beside_the_unet_does_not_grow_with_the_adapter(jobs: Jobs, tmp_path: Path) -> None:
    """Four and nine layers of each block adapted: operation by operation the same, averages of the weights included."""
    few, many = (
        Watched(jobs, tmp_path, ema={"decay": 0.9}, adapter={"kind": "lora", "rank": 2, "targets": targets})
        for targets in ("attention", "attention+feed-forward")
    )
    assert len(many.state.trainable) > 1.2 * len(few.state.trainable)
    assert few.first_step()[1] == many.first_step()[1]


@pytest.mark.ci
def test_the_next_rows_are_made_before_the_host_waits(jobs: Jobs, tmp_path: Path) -> None:
    watched = Watched(jobs, tmp_path, max_steps=3)
    made: list[tuple[int, int]] = []

    class Noting:
        pictures = watched.data.pictures

        def batch(self, step: int, slots: Sequence[int]) -> Batch:
            made.append((step, watch.waits))
            return watched.data.batch(step, slots)

    watched.trainer.rows = NextRows(Noting(), META)
    with DeviceWatch() as watch:
        watched.trainer.fit([])
    assert made == [(0, 0), (1, 0), (2, 1)]


def test_rows_made_for_another_purpose_are_not_given_out(jobs: Jobs, tmp_path: Path) -> None:
    data = Watched(jobs, tmp_path).data
    rows = NextRows(data, torch.device("cpu"))
    for step, slots in ((1, range(2)), (2, range(2)), (1, range(1))):
        rows.make(1, range(2))
        for given, expected in zip(
            list_of_tensors(rows.batch(step, slots)), list_of_tensors(data.batch(step, slots)), strict=True
        ):
            assert torch.equal(given, expected)


def list_of_tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch.map(note)
    return found


def history_lines(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()]
