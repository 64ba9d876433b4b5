"""A training run: set up from its job, brought to where it was, and exported when it is done."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from sdxl_core.adapters import TRAINED_FILE
from sdxl_core.bundle import Bundle
from sdxl_core.config import Precision
from sdxl_core.denoiser import Denoiser
from sdxl_core.disk import require_room
from sdxl_core.ema import build_ema
from sdxl_core.errors import UserError
from sdxl_core.hooks import validation_file
from sdxl_core.loop import TrainState, rows_per_step
from sdxl_core.model import vae_folder, zeros_for_empty_prompt
from sdxl_core.networks import offloaded
from sdxl_core.objectives import OBJECTIVES, Objective
from sdxl_core.optim import build_optimizer
from sdxl_core.runtime import choose_device, choose_dtype, use_deterministic_kernels
from sdxl_core.scheduler import load_noise_schedule
from sdxl_core.train_job import TrainJob
from sdxl_core.trained import Trained, load_trained_networks
from sdxl_core.training_config.saving_memory import require_attention
from sdxl_core.training_set import TrainingSet, load_images
from sdxl_core.training_text import CachedText, LiveText, TrainingText
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
    data: TrainingSet
    identity: dict[str, Any]
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
        bundles = max(0, (self.job.training.keep_bundles + 1) * bundle - held)
        what = f"training with keep_bundles = {self.job.training.keep_bundles}"
        require_room(self.job.work, bundles + 2 * weights, what)

    def export(self) -> None:
        """Write the finished run's files into the job's `out`."""
        job = self.job
        ancestor = job.ancestor.digest if job.ancestor is not None else None
        provenance = dict(job.identity) | ({"ancestor": ancestor} if ancestor else {})
        with self.state.ema.applied():
            self.trained.export(job.model, job.out, provenance)
        (job.out / "history.jsonl").write_text(self.history, encoding="utf-8")
        prompts = () if job.training.validation is None else job.training.validation.prompts
        self._export_validation(prompts)
        described = json.dumps(
            {"training": job.training.lasting, "inputs": dict(job.identity), "validation_prompts": list(prompts)}
            | {"steps": self.state.step, "skipped_steps": self.state.skipped_in_all, "ancestor": ancestor},
            indent=1,
            sort_keys=True,
        )
        (job.out / TRAINED_FILE).write_text(described + "\n", encoding="utf-8")

    def _export_validation(self, prompts: tuple[str, ...]) -> None:
        """Of the steps of this run alone: a longer run with the same beginning works in the same folder."""
        validation = self.job.training.validation
        if validation is None:
            return
        (self.job.out / "validation").mkdir(exist_ok=True)
        first, every = self.job.ancestor.step if self.job.ancestor is not None else 0, validation.every_steps
        for step in range((first // every + 1) * every, self.state.step + 1, every):
            for i in range(len(prompts)):
                name = validation_file(step, i)
                (self.job.out / "validation" / name).write_bytes((self.job.work / "validation" / name).read_bytes())


def set_up(job: TrainJob) -> Run:
    """Load the cached inputs and the networks, and make these trainable as the configuration says.

    Raises:
        UserError: the objective needs class images and the job has none, the job has cached text and trains what
            would change it, the device cannot do what is asked, or a package is not installed.
    """
    config = job.training
    require_attention(config.attention)
    device = choose_device(job.device)
    if config.deterministic:
        use_deterministic_kernels()
    dtype = choose_dtype(config.precision, device, "training")
    objective = OBJECTIVES[config.objective.kind](config.objective)
    if objective.uses_class_images and job.class_latents is None:
        raise UserError(f"training.objective = {config.objective.kind} needs class images: add a section `prior`")
    if config.offload_base and not objective.uses_base:
        raise UserError(f"training.offload_base: objective {config.objective.kind} asks no base; leave it out")
    if config.live_text != (job.text is None):
        raise UserError(
            "captions are encoded before training exactly where neither training.text_encoders nor "
            f"training.new_tokens would change their embeddings; got cached text: {job.text}"
        )
    accelerator = Accelerator(mixed_precision=MIXED_PRECISION[config.precision], cpu=device.type == "cpu")
    workers = Workers(accelerator.num_processes, accelerator.process_index)
    set_seed(config.seed)
    schedule = load_noise_schedule(job.model, config.schedule)
    if config.timesteps.low >= schedule.timesteps:
        raise UserError.about(
            "training.timesteps.low", expected=f"below {schedule.timesteps}, all there are", got=config.timesteps.low
        )
    images = load_images(job.latents)
    classes = load_images(job.class_latents) if objective.uses_class_images and job.class_latents else None
    captions = {*images.captions, *(classes.captions if classes else ()), objective.class_prompt or ""}
    trained = load_trained_networks(job.model, config, captions, dtype, accelerator)
    data = TrainingSet(
        images,
        classes,
        _text(job, trained, captions),
        scaling_factor=scaling_factor(vae_folder(job.model, job.vae)),
        config=config,
        timesteps=schedule.timesteps,
        rows_per_step=rows_per_step(config, workers.count),
        class_prompt=objective.class_prompt,
    )
    base = trained.adapter.base(trained.networks, dtype) if objective.uses_base else None
    if base is not None and config.offload_base:
        base = offloaded(base, accelerator.device)
    state = TrainState(
        denoiser=Denoiser(trained.networks, schedule.to(accelerator.device), config, base),
        trainable=trained.trainable,
        optimizer=accelerator.prepare(build_optimizer(config, list(trained.trainable.values()))),
        ema=build_ema(config.ema, trained.trainable),
        micro_batch_size=config.micro_batch_size,
    )
    return Run(job, accelerator, workers, trained, objective, state, data, _identity(job, accelerator))


def _text(job: TrainJob, trained: Trained, captions: Collection[str]) -> TrainingText:
    if job.text is not None:
        return CachedText.load(job.text)
    assert trained.tokenizers is not None
    return LiveText.tokenize(captions, trained.tokenizers, job.captions, zeros_for_empty_prompt(job.model))


def _identity(job: TrainJob, accelerator: Accelerator) -> dict[str, Any]:
    """All that decides the bits of the weights after any step, as JSON."""
    device = accelerator.device
    sampled = job.sampling.model_dump(mode="json") if job.training.validation is not None else None
    identity = {
        "training": job.training.lasting | {"processes": accelerator.num_processes},
        "rows_per_step": rows_per_step(job.training, accelerator.num_processes),
        "inputs": dict(job.identity),
        "sampling": sampled,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "captions": job.captions.model_dump(mode="json") if job.text is None else None,
        "versions": {name: version(name) for name in COMPUTING_LIBRARIES},
    }
    return dict(json.loads(json.dumps(identity)))


def scaling_factor(vae: Path) -> float:
    """What latents are multiplied by before they are noised (0.13025 in SDXL), from the VAE's own configuration."""
    return float(json.loads((vae / "config.json").read_text(encoding="utf-8"))["scaling_factor"])
