"""A training run: set up from its job, and brought to where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from sdxl_core.best import criteria
from sdxl_core.bundle import Bundle
from sdxl_core.config import Precision
from sdxl_core.denoiser import Denoiser
from sdxl_core.disk import require_room
from sdxl_core.ema import build_ema
from sdxl_core.errors import UserError
from sdxl_core.identity.set_up import add_identity_loss
from sdxl_core.loop import TrainState, rows_per_step
from sdxl_core.networks import Base, offloaded
from sdxl_core.objectives import OBJECTIVES, Objective
from sdxl_core.optimizers import optimizer_kind
from sdxl_core.run_data import (
    build_data,
    load_run_images,
    refuse_what_is_not_there,
    refuse_with_own_data,
)
from sdxl_core.runtime import choose_device, choose_dtype, refuse_foreign_launch, use_deterministic_kernels
from sdxl_core.scheduler import load_noise_schedule
from sdxl_core.scheduler_settings import refuse_base_of_another_prediction, refuse_timesteps_beyond
from sdxl_core.sharding import divided_like, whole
from sdxl_core.stepping import build_stepping
from sdxl_core.together import Alone, Together
from sdxl_core.train_job import TrainJob
from sdxl_core.trained import Trained, load_trained_networks
from sdxl_core.training_config.exported_steps import exported_steps
from sdxl_core.training_config.saving_memory import require_attention
from sdxl_core.training_set import StepRows
from sdxl_core.validation_loss import HeldOutMeasure
from sdxl_core.workers import Workers

MIXED_PRECISION: dict[Precision, str] = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}
COMPUTING_LIBRARIES = ("torch", "diffusers", "peft")
COUNTERS = ("step", "skipped", "skipped_in_all", "micro_batch_size")


@dataclass
class Run:
    """A training run, set up and not yet started."""

    job: TrainJob
    accelerator: Accelerator
    workers: Workers
    trained: Trained
    objective: Objective
    state: TrainState
    data: StepRows
    identity: dict[str, Any]
    validation_loss: HeldOutMeasure | None
    history: str = ""
    """Lines of history.jsonl of the steps done before this process."""
    loaded_step: int | None = None
    """Whose weights were loaded after the last step, to be exported."""

    @property
    def weights_step(self) -> int:
        """Whose weights the networks hold."""
        return self.state.step if self.loaded_step is None else self.loaded_step

    def bundle(self, history: str) -> Bundle:
        """The run as it stands, to be written; tensors are the live ones."""
        scaler = self.accelerator.scaler
        return Bundle(
            step=self.state.step,
            weights=whole({name: p.detach() for name, p in self._saved().items()}),
            average=whole(self.state.ema.state()),
            optimizer=self.state.stepping.state(),
            scaler={} if scaler is None else scaler.state_dict(),
            counters={name: getattr(self.state, name) for name in COUNTERS},
            history=history,
            identity=self.identity,
        )

    @torch.no_grad()
    def restore(self, bundle: Bundle) -> None:
        """Bring the run to where the bundle was saved; all of it, or nothing.

        Raises:
            UserError: the bundle holds other tensors than this run trains.
        """
        for held, wanted in ((bundle.weights, self._saved()), (bundle.average, self.state.ema.state())):
            if _shapes(held) != _shapes(wanted):
                raise UserError(f"the bundle of step {bundle.step} holds other tensors than this run trains")
        self.load_weights(bundle)
        if self.accelerator.scaler is not None and bundle.scaler:
            self.accelerator.scaler.load_state_dict(bundle.scaler)
        for name in COUNTERS:
            setattr(self.state, name, bundle.counters[name])
        self.history = bundle.history
        configured = self.job.training.micro_batch_size
        if bundle.identity["training"]["micro_batch_size"] != configured:  # overridden since
            self.state.micro_batch_size = configured

    @torch.no_grad()
    def load_weights(self, bundle: Bundle) -> None:
        """The bundle's weights and what is averaged of them, whole or not at all."""
        self.state.stepping.load(bundle.optimizer)
        for name, tensor in self._saved().items():
            tensor.copy_(divided_like(bundle.weights[name], tensor))
        self.state.ema.load(bundle.average)

    def _saved(self) -> dict[str, torch.Tensor]:
        return {**self.state.trainable, **self.trained.kept}

    def require_room(self) -> None:
        """Raises DiskFullError where the disk has no room for the bundles and the exports."""
        weights = sum(p.nbytes for p in self.state.parameters)
        kept = sum(tensor.nbytes for tensor in self.trained.kept.values())
        numbers = sum(p.numel() for p in self.state.parameters)
        averages = sum(average.nbytes for average in self.state.ema.state().values())
        bundle = weights + kept + averages + self.state.stepping.state_bytes()
        held = sum(f.stat().st_size for f in (self.job.work / "bundles").rglob("*") if f.is_file())
        config, steps = self.job.training, len(exported_steps(self.job.training, self.job.first_step))
        count = config.keep_bundles + 1 + len(criteria(self.job)) + steps  # the best and the exported ones stay
        bundles = max(0, count * bundle - held)
        what = f"training with keep_bundles = {config.keep_bundles}"
        what += f" and {steps} exported steps" if steps else ""
        exports = 2 * 4 * numbers if config.adapter.kind != "full" else weights  # an adapter's two files are float32
        require_room(self.job.work, bundles + (1 + steps) * exports, what)


def set_up(job: TrainJob, objective: Objective | None = None, data: StepRows | None = None) -> Run:
    """Load the cached inputs and the networks, and make these trainable as the configuration says.

    Raises:
        UserError: the objective needs class images and the job has none, the job has cached text and trains what
            would change it, the device cannot do what is asked, or a package is not installed.
    """
    config = job.training
    config.optimizer.require()
    require_attention(config.attention)
    device = choose_device(job.device)
    if config.deterministic:
        use_deterministic_kernels()
    dtype = choose_dtype(config.precision, device, "training.precision")
    objective = objective or OBJECTIVES[config.objective.kind](config.objective)
    if data is None:
        refuse_what_is_not_there(job, objective)
    else:
        refuse_with_own_data(job)
    refuse_foreign_launch()
    accelerator = Accelerator(mixed_precision=MIXED_PRECISION[config.precision], cpu=device.type == "cpu")
    workers = Workers(accelerator.num_processes, accelerator.process_index)
    set_seed(config.seed)
    schedule = load_noise_schedule(job.model, config.schedule)
    refuse_timesteps_beyond(schedule.timesteps, config)
    if _asks_frozen(objective, job):
        refuse_base_of_another_prediction(job.model, config.schedule)
    rows = rows_per_step(config, workers.count)
    images = load_run_images(job, objective) if data is None else None
    faces, validation_loss = None, None
    if images is not None:
        concepts = images.trained.concept_of
        objective, faces = add_identity_loss(objective, job, concepts, schedule.timesteps, accelerator.device)
    captions = images.captions(objective.class_prompt) if images is not None else set()
    trained = load_trained_networks(job.model, config, captions, dtype, accelerator)
    if images is not None:
        data, validation_loss = build_data(job, images, trained.tokenizers, objective, faces, schedule.timesteps, rows)
    assert data is not None
    base = _base(job, objective, trained, dtype, accelerator.device)
    if config.shard_weights:
        trained = trained.divided(accelerator.device)
    state = TrainState(
        denoiser=Denoiser(trained.networks, schedule.to(accelerator.device), config, base),
        trainable=trained.trainable,
        stepping=build_stepping(config, trained.trainable, accelerator, workers, rows),
        ema=build_ema(config.ema, trained.trainable),
        micro_batch_size=config.micro_batch_size,
        together=Together(workers) if config.shard_weights else Alone(),
    )
    if validation_loss is not None:
        validation_loss.begin(state.denoiser, accelerator.device)
    identity = _identity(job, accelerator)
    return Run(job, accelerator, workers, trained, objective, state, data, identity, validation_loss)


def _base(
    job: TrainJob, objective: Objective, trained: Trained, dtype: torch.dtype, device: torch.device
) -> Base | None:
    """The frozen base or, for an objective that uses a reference, what training begins with; where anything asks.

    Raises:
        UserError: it is to be offloaded and nothing asks for it.
    """
    config = job.training
    if not _asks_frozen(objective, job):
        if config.offload_base:
            raise UserError(f"training.offload_base: objective {config.objective.kind} asks no base; leave it out")
        return None
    frozen = trained.adapter.reference if objective.uses_reference else trained.adapter.base
    base = frozen(trained.networks, dtype)
    return offloaded(base, device) if config.offload_base else base


def _asks_frozen(objective: Objective, job: TrainJob) -> bool:
    return objective.uses_base or objective.uses_reference or job.training.asks_base


def _identity(job: TrainJob, accelerator: Accelerator) -> dict[str, Any]:
    """All that decides the bits of the weights after any step, as JSON."""
    device = accelerator.device
    sampled = job.sampling.model_dump(mode="json") if job.training.validation_prompts else None
    identity = {
        "training": job.training.lasting | {"processes": accelerator.num_processes},
        "rows_per_step": rows_per_step(job.training, accelerator.num_processes),
        "inputs": dict(job.identity),
        "sampling": sampled,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "scores": _scored(job),
        "captions": job.captions.model_dump(mode="json") if job.text is None else None,
        "versions": {name: version(name) for name in (*COMPUTING_LIBRARIES, optimizer_kind(job.training).library)},
    }
    return dict(json.loads(json.dumps(identity)))


def _scored(job: TrainJob) -> dict[str, Any] | None:
    """What the scores in a history mean: by which metrics, of which pictures."""
    validation = job.training.validation
    if validation is None or not validation.scores:
        return None
    return {
        "metrics": {name: job.scores[name].digest for name in validation.scores},
        "pictures": validation.model_dump(mode="json", include={"prompts", "pictures_per_prompt", "seed"}),
        "sampling": job.sampling.model_dump(mode="json"),
    }


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
