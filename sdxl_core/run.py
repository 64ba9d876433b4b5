"""A training run: set up from its job, and brought to where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import UNet2DConditionModel

from sdxl_core.adapters import ADAPTERS, Adapter
from sdxl_core.bundle import Bundle
from sdxl_core.config import Precision
from sdxl_core.denoiser import Denoiser
from sdxl_core.disk import require_room
from sdxl_core.ema import build_ema
from sdxl_core.errors import UserError
from sdxl_core.held_out import choose_held_out, refuse_shared
from sdxl_core.loop import TrainState, rows_per_step
from sdxl_core.model import cast_frozen, load_noise_schedule, load_unet, vae_folder
from sdxl_core.objectives import OBJECTIVES, Objective
from sdxl_core.optim import build_optimizer
from sdxl_core.runtime import choose_device, choose_dtype, use_deterministic_kernels
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_set import CachedImages, CachedText, TrainingSet, load_images
from sdxl_core.validation_loss import ValidationLoss, validation_timesteps
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
    unet: UNet2DConditionModel
    adapter: Adapter
    objective: Objective
    state: TrainState
    data: TrainingSet
    identity: dict[str, Any]
    validation_loss: ValidationLoss | None
    history: str = ""
    """Lines of history.jsonl of the steps done before this process."""

    def bundle(self, history: str) -> Bundle:
        """The run as it stands, to be written; tensors are the live ones."""
        scaler = self.accelerator.scaler
        return Bundle(
            step=self.state.step,
            weights={name: p.detach() for name, p in self.state.trainable.items()},
            average=self.state.ema.state(),
            optimizer=self.state.optimizer.state_dict(),
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
        shapes = {name: tuple(p.shape) for name, p in self.state.trainable.items()}
        averaged = shapes if self.state.ema.state() else {}
        for held, wanted in ((bundle.weights, shapes), (bundle.average, averaged)):
            if {name: tuple(tensor.shape) for name, tensor in held.items()} != wanted:
                raise UserError(f"the bundle of step {bundle.step} holds other tensors than this run trains")
        settings = self.state.optimizer.state_dict()["param_groups"]  # the configuration's, not the bundle's
        self.state.optimizer.load_state_dict({"state": bundle.optimizer["state"], "param_groups": settings})
        if self.accelerator.scaler is not None and bundle.scaler:
            self.accelerator.scaler.load_state_dict(bundle.scaler)
        for name, parameter in self.state.trainable.items():
            parameter.copy_(bundle.weights[name])
        self.state.ema.load(bundle.average)
        for name in COUNTERS:
            setattr(self.state, name, bundle.counters[name])
        self.history = bundle.history
        configured = self.job.training.micro_batch_size
        if bundle.identity["training"]["micro_batch_size"] != configured:  # overridden since
            self.state.micro_batch_size = configured

    def require_room(self) -> None:
        """Raises DiskFullError where the disk has no room for the bundles and the export."""
        weights = sum(p.nbytes for p in self.state.parameters)
        bundle = weights * (4 if self.state.ema.state() else 3)  # with AdamW's two moments
        held = sum(f.stat().st_size for f in (self.job.work / "bundles").rglob("*") if f.is_file())
        count = self.job.training.keep_bundles + 1 + (self.validation_loss is not None)  # the best stays
        bundles = max(0, count * bundle - held)
        what = f"training with keep_bundles = {self.job.training.keep_bundles}"
        require_room(self.job.work, bundles + 2 * weights, what)


def set_up(job: TrainJob) -> Run:
    """Load the cached inputs and the UNet, and make it trainable as the configuration says.

    Raises:
        UserError: the objective needs class images and the job has none, or the device cannot do what is asked.
    """
    config = job.training
    device = choose_device(job.device)
    if config.deterministic:
        use_deterministic_kernels()
    dtype = choose_dtype(config.precision, device, "training")
    objective = OBJECTIVES[config.objective.kind](config.objective)
    if objective.uses_class_images and job.class_latents is None:
        raise UserError(f"training.objective = {config.objective.kind} needs class images: add a section `prior`")
    accelerator = Accelerator(mixed_precision=MIXED_PRECISION[config.precision], cpu=device.type == "cpu")
    workers = Workers(accelerator.num_processes, accelerator.process_index)
    set_seed(config.seed)
    schedule = load_noise_schedule(job.model)
    _refuse_timesteps_beyond(schedule.timesteps, config)
    data, validation_loss = _data(job, objective, schedule.timesteps, rows_per_step(config, workers.count))
    unet = load_unet(job.model)
    adapter = ADAPTERS[config.adapter.kind](config.adapter)
    trainable = adapter.attach(unet, config.seed)
    cast_frozen(unet, dtype)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.to(accelerator.device)
    optimizer = accelerator.prepare(build_optimizer(config, list(trainable.values())))
    prepared = accelerator.prepare_model(unet, evaluation_mode=True)  # autocast; gradients are averaged by Workers
    state = TrainState(
        denoiser=Denoiser(prepared, schedule.to(accelerator.device), config),
        trainable=trainable,
        optimizer=optimizer,
        ema=build_ema(config.ema, trainable),
        micro_batch_size=config.micro_batch_size,
    )
    identity = _identity(job, accelerator)
    return Run(job, accelerator, workers, unet, adapter, objective, state, data, identity, validation_loss)


def _refuse_timesteps_beyond(there_are: int, config: TrainingConfig) -> None:
    measured = config.validation_loss.timesteps if config.validation_loss else None
    for where, highest in (
        ("training.timesteps.low", config.timesteps.low),
        ("training.validation.loss.timesteps", max(measured or (0,))),
    ):
        if highest >= there_are:
            raise UserError.about(where, expected=f"below {there_are}, all there are", got=highest)


def _data(job: TrainJob, objective: Objective, timesteps: int, rows: int) -> tuple[TrainingSet, ValidationLoss | None]:
    """What is trained on and, apart from it, what the validation loss is measured on."""
    config = job.training
    text = CachedText.load(job.text)
    images, held_out = _split(job, text)
    classes = load_images(job.class_latents, text) if objective.uses_class_images and job.class_latents else None
    factor = scaling_factor(vae_folder(job.model, job.vae))
    data = TrainingSet(
        images, classes, text, scaling_factor=factor, config=config, timesteps=timesteps, rows_per_step=rows
    )
    if config.validation_loss is None or held_out is None:
        return data, None
    measured = validation_timesteps(config.validation_loss, config.timesteps, timesteps)
    validation_loss = ValidationLoss(
        config.validation_loss,
        held_out,
        text,
        scaling_factor=factor,
        timesteps=measured,
        rows_at_once=config.micro_batch_size,
    )
    return data, validation_loss


def _split(job: TrainJob, text: CachedText) -> tuple[CachedImages, CachedImages | None]:
    """(pictures to train on, pictures held out).

    Raises:
        UserError: there would be none of either, or some of both.
    """
    images, config = load_images(job.latents, text), job.training.validation_loss
    if config is None:
        return images, None
    if config.splits_dataset:
        return images.split(choose_held_out(images.sha256s, config))
    if job.validation_latents is None:
        raise UserError("training.validation.loss: no pictures to measure on; set share or pictures")
    held_out = load_images(job.validation_latents, text)
    refuse_shared(images.sha256s, held_out.sha256s)
    return images, held_out


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
        "versions": {name: version(name) for name in COMPUTING_LIBRARIES},
    }
    return dict(json.loads(json.dumps(identity)))


def scaling_factor(vae: Path) -> float:
    """What latents are multiplied by before they are noised (0.13025 in SDXL), from the VAE's own configuration."""
    return float(json.loads((vae / "config.json").read_text(encoding="utf-8"))["scaling_factor"])
