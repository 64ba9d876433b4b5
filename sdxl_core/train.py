"""The trainer: `python -m sdxl_core.train JOB.json`, or `accelerate launch -m sdxl_core.train JOB.json`.

Goes on from the newest whole bundle in the job's work folder. Prints one JSON object a line. Exit codes: 0 done, 75
stopped by SIGTERM after saving, 2 a mistake of the user's, 1 anything else.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import UNet2DConditionModel
from pydantic import ValidationError

from sdxl_core.bundle import Bundle, newest_bundle, save_bundle
from sdxl_core.config import Precision
from sdxl_core.denoiser import Denoiser
from sdxl_core.ema import build_ema
from sdxl_core.errors import UserError
from sdxl_core.export import export_lora
from sdxl_core.hooks import Bundles, History, TensorBoard, Tracker, ValidationPictures, Wandb, emit
from sdxl_core.loop import Hook, TrainState, fit, rows_per_step
from sdxl_core.model import add_lora, cast_frozen, load_noise_schedule, load_unet, vae_folder
from sdxl_core.objectives import OBJECTIVES
from sdxl_core.optim import build_optimizer
from sdxl_core.runtime import choose_device, choose_dtype
from sdxl_core.train_job import EXIT_DONE, EXIT_PREEMPTED, EXIT_USER_ERROR, TrainJob
from sdxl_core.training_set import CachedText, TrainingSet, load_images
from sdxl_core.validation import Validation

MIXED_PRECISION: dict[Precision, str] = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}


@dataclass
class Run:
    """A training run, set up and not yet started."""

    job: TrainJob
    accelerator: Accelerator
    unet: UNet2DConditionModel
    state: TrainState
    data: TrainingSet
    identity: dict[str, Any]

    def bundle(self) -> Bundle:
        """The run as it stands, to be written."""
        scaler = self.accelerator.scaler
        return Bundle(
            step=self.state.step,
            weights={f"{i:05d}": p for i, p in enumerate(self.state.trainable)},
            average=self.state.ema.state(),
            optimizer=self.state.optimizer.state_dict(),
            scaler={} if scaler is None else scaler.state_dict(),
            identity=self.identity,
        )

    @torch.no_grad()
    def restore(self, bundle: Bundle) -> None:
        for i, parameter in enumerate(self.state.trainable):
            parameter.copy_(bundle.weights[f"{i:05d}"])
        self.state.ema.load(bundle.average)
        self.state.optimizer.load_state_dict(bundle.optimizer)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(bundle.scaler)
        self.state.step = bundle.step


def set_up(job: TrainJob) -> Run:
    """Load the cached inputs and the UNet, and put a fresh LoRA on it.

    Raises:
        UserError: the objective needs class images and the job has none, or the device cannot do what is asked.
    """
    config = job.training
    device = choose_device(job.device)
    dtype = choose_dtype(config.precision, device, "training")
    objective = OBJECTIVES[config.objective.kind](config.objective)
    if objective.uses_class_images and job.class_latents is None:
        raise UserError(f"training.objective = {config.objective.kind} needs class images: add a section `prior`")
    accelerator = Accelerator(mixed_precision=MIXED_PRECISION[config.precision], cpu=device.type == "cpu")
    set_seed(config.seed)
    text = CachedText.load(job.text)
    classes = load_images(job.class_latents, text) if objective.uses_class_images and job.class_latents else None
    schedule = load_noise_schedule(job.model)
    data = TrainingSet(
        load_images(job.latents, text),
        classes,
        text,
        scaling_factor=scaling_factor(vae_folder(job.model, job.vae)),
        timesteps=schedule.timesteps,
        seed=config.seed,
        caption_dropout=config.caption_dropout,
        rows_per_step=rows_per_step(config, accelerator.num_processes),
    )
    unet = load_unet(job.model)
    trainable = add_lora(unet, config.lora, config.seed)
    cast_frozen(unet, dtype)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.to(accelerator.device)
    optimizer = build_optimizer(config, trainable)
    prepared, optimizer = accelerator.prepare(unet, optimizer)
    state = TrainState(
        denoiser=Denoiser(prepared, schedule.to(accelerator.device)),
        trainable=trainable,
        optimizer=optimizer,
        ema=build_ema(config.ema, trainable),
    )
    settings = config.model_dump(mode="json", exclude=set(UNIDENTIFYING))
    identity = {"training": settings, "inputs": job.identity, "processes": accelerator.num_processes}
    return Run(job, accelerator, unet, state, data, json.loads(json.dumps(identity)))


UNIDENTIFYING = ("save_every_steps", "keep_bundles", "log_every_steps", "validation", "wandb")


def scaling_factor(vae: Path) -> float:
    """What latents are multiplied by before they are noised (0.13025 in SDXL), from the VAE's own configuration."""
    return float(json.loads((vae / "config.json").read_text(encoding="utf-8"))["scaling_factor"])


def train(job: TrainJob) -> bool:
    """Run `job` to its end, or until SIGTERM; returns whether it reached the end."""
    run = set_up(job)
    main = run.accelerator.is_main_process
    bundle = newest_bundle(job.work / "bundles", run.identity, lambda text: emit("log", message=text))
    if bundle is not None:
        run.restore(bundle)
        emit("log", message=f"going on from step {bundle.step} of {job.training.max_steps}")
    request_stop_on_sigterm(run.state)
    trackers = _trackers(run) if main else []
    hooks = _hooks(run, trackers) if main else []
    objective = OBJECTIVES[job.training.objective.kind](job.training.objective)
    fit(run.state, run.data, objective, run.accelerator, job.training, hooks)
    for tracker in trackers:
        tracker.close()
    run.accelerator.wait_for_everyone()
    finished = run.state.step >= job.training.max_steps
    if finished and main:
        _export(run)
    return finished


def request_stop_on_sigterm(state: TrainState) -> None:
    def stop(number: int, frame: object) -> None:
        if state.stop_requested:
            sys.exit(EXIT_PREEMPTED)
        state.stop_requested = True
        emit("log", message="asked to stop: finishing the step, then saving")

    signal.signal(signal.SIGTERM, stop)


def _trackers(run: Run) -> list[Tracker]:
    config, logs = run.job.training, run.job.work / "logs"
    trackers: list[Tracker] = [TensorBoard(logs / "tensorboard", run.state.step)]
    if config.wandb is not None:
        trackers.append(Wandb(config.wandb, logs, config.model_dump(mode="json")))
    return trackers


def _hooks(run: Run, trackers: list[Tracker]) -> list[Hook]:
    job, config = run.job, run.job.training
    history = History(job.work / "history.jsonl", config, run.state.step, trackers)
    hooks: list[Hook] = [history]
    if config.validation is not None:
        validation = Validation(config.validation, job.sampling, job.model, job.vae, run.unet, run.accelerator.device)
        hooks.append(ValidationPictures(validation, job.work / "validation"))

    def save(state: TrainState) -> None:
        save_bundle(job.work / "bundles", run.bundle(), config.keep_bundles)

    return [*hooks, Bundles(save, history, config)]


def _export(run: Run) -> None:
    job = run.job
    job.out.mkdir(parents=True, exist_ok=True)
    with run.state.ema.applied():
        export_lora(run.unet, job.training.lora, job.out, job.identity)
    shutil.copyfile(job.work / "history.jsonl", job.out / "history.jsonl")
    for folder in ("validation", "logs"):
        if (job.work / folder).is_dir():
            shutil.copytree(job.work / folder, job.out / folder, dirs_exist_ok=True)
    prompts = [] if job.training.validation is None else list(job.training.validation.prompts)
    described = json.dumps(run.identity | {"validation_prompts": prompts}, indent=1, sort_keys=True)
    (job.out / "training.json").write_text(described + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m sdxl_core.train JOB.json", file=sys.stderr)
        return EXIT_USER_ERROR
    try:
        job = TrainJob.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
        return EXIT_DONE if train(job) else EXIT_PREEMPTED
    except (UserError, ValidationError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
