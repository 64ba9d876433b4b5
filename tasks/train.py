"""Stage `train`: an adapter or a whole UNet, by the one training loop, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.config import SamplingConfig, TrainingConfig
from sdxl_core.train_job import Ancestor, TrainJob
from tasks.locks import held
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.store import say_waiting
from tasks.trainer import run_trainer
from tasks.trainings import TrainingRecord, refuse_another, training_key, training_path, write_record
from tasks.weights import BaseModel, local_folders

_PARTS = ("unet", "scheduler")


@dataclass(frozen=True)
class Continuing:
    """How a training deals with earlier ones; see `tasks.trainings`."""

    name: str
    """The experiment's."""
    ancestor: Ancestor | None = None
    override: tuple[str, ...] = ()
    fresh: bool = False


def _build(job: Job) -> dict[str, Json]:
    model, vae = local_folders(job.local)
    training = TrainingConfig.model_validate(job.local["training"])
    ancestor = Ancestor.model_validate(job.local["ancestor"]) if job.local["ancestor"] else None
    settings = {name: job.params[name] for name in ("training", "model", "sampling")} | {"inputs": dict(job.digests)}
    key = training_key({**settings, "code": STAGE.version}, ancestor)
    name = job.local["name"]
    with held(job.store.lock_path("training", key), say_waiting("train")) as lock:
        if not job.local["fresh"] and ancestor is None:
            refuse_another(job.store, name, settings, key)
        record = TrainingRecord(key=key, settings=settings, finished=False, ancestor=ancestor)
        write_record(job.store, name, record)
        task = TrainJob(
            model=model,
            vae=vae,
            training=training,
            latents=job.inputs["latents"],
            text=job.inputs["text"],
            class_latents=job.inputs.get("class_latents"),
            sampling=SamplingConfig.model_validate(job.local["sampling"]),
            work=training_path(job.store, key),
            out=job.out,
            identity={"model": job.params["model"], **job.digests},
            device=job.device,
            ancestor=ancestor,
            override=tuple(job.local["override"]),
            allow_fresh=job.local["fresh"],
        )
        summary = run_trainer(task, (*job.inherited, lock), job.progress)
        write_record(job.store, name, record.model_copy(update={"finished": True}))
    return summary


STAGE = Stage(kind="train", version="2", build=_build, retries=2)


def train(
    training: TrainingConfig,
    sampling: SamplingConfig,
    model: BaseModel,
    cached: Mapping[str, Handle],
    continuing: Continuing,
) -> Call:
    """`cached` holds `latents`, `text` and, for prior preservation, `class_latents`."""
    validated = training.validation is not None
    params = {
        "training": training.lasting,
        "max_steps": training.max_steps,
        "model": model.digest() if validated else model.digest(*_PARTS),
        "sampling": sampling.model_dump(mode="json", exclude={"batch_size"}) if validated else None,
        "ancestor": continuing.ancestor.digest if continuing.ancestor else None,
    }
    local = {
        "training": training.model_dump(mode="json"),
        "sampling": sampling.model_dump(mode="json"),
        "name": continuing.name,
        "ancestor": continuing.ancestor.model_dump(mode="json") if continuing.ancestor else None,
        "override": list(continuing.override),
        "fresh": continuing.fresh,
        **model.located,
    }
    return Call(STAGE, "train", params, cached, local)


def trained_weights(artifact: Path) -> list[Path]:
    """The files of a train artifact that decide what it draws."""
    return sorted(artifact.rglob("*.safetensors"))
