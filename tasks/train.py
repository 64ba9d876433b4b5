"""Stage `train`: an adapter or a whole UNet, by the one training loop, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sdxl_core.config import CaptionsConfig, SamplingConfig
from sdxl_core.train_job import Ancestor, TrainJob
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_config.best_step import BY_VALIDATION_LOSS
from sdxl_core.training_config.exported_steps import STEPS_FOLDER
from tasks.identity import FaceModel
from tasks.locks import held
from tasks.manifest import Frozen, Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.store import ArtifactStore, say_waiting
from tasks.trainer import run_trainer
from tasks.trainings import TrainingRecord, refuse_another, training_key, training_path, write_record
from tasks.validation_scores import Scorers, ScorersFile
from tasks.weights import BaseModel, local_folders

BASE_PARTS = ("unet", "scheduler")
"""What of the base decides a training, unless it draws pictures."""


def trained_from(model: BaseModel) -> set[str]:
    """The digests by which a training may know its base: of all of it, or of the parts that decide the weights."""
    parts = [(*BASE_PARTS, *text, *vae) for text in ((), model.family.text_parts) for vae in ((), ("vae",))]
    return {model.digest(), *(model.digest(*some) for some in parts)}


class Continuing(Frozen):
    """How a training deals with earlier ones; see `tasks.trainings`."""

    name: str
    """The experiment's."""
    ancestor: Ancestor | None = None
    override: tuple[str, ...] = ()
    fresh: bool = False
    start: str | None = None
    """Digest of the adapter from elsewhere that this one begins with."""


def _build(job: Job) -> dict[str, Json]:
    model, vae = local_folders(job.local)
    training = TrainingConfig.model_validate(job.local["training"])
    continuing = Continuing.model_validate(job.local["continuing"])
    record = _record(job.params, job.digests, continuing)
    key = record.key
    where = job.device.partition(":")[0]  # the child sees the devices that are held, and counts them itself
    with held(job.store.lock_path("training", key), say_waiting("train")) as lock:
        refuse_unfinished(job.store, continuing, record.settings)
        write_record(job.store, continuing.name, record)
        task = TrainJob(
            model=model,
            vae=vae,
            training=training,
            latents=job.inputs["latents"],
            text=job.inputs.get("text"),
            captions=CaptionsConfig.model_validate(job.local["captions"]),
            class_latents=job.inputs.get("class_latents"),
            validation_latents=job.inputs.get("validation_latents"),
            preferences=job.inputs.get("pairs"),
            validation_preferences=job.inputs.get("validation_pairs"),
            face_targets=job.inputs.get("identity"),
            face_model=Path(job.local["face_model"]) if job.local["face_model"] else None,
            sampling=SamplingConfig.model_validate(job.local["sampling"]),
            scores=job.local["score_facts"],
            work=training_path(job.store, key),
            out=job.out,
            identity={"model": job.params["model"], **job.digests, **_of_face_model(job)}
            | ({"start": continuing.start} if continuing.start else {}),
            device=where,
            run_id=key,
            ancestor=continuing.ancestor,
            override=continuing.override,
            allow_fresh=continuing.fresh,
        )
        held_open = (*job.inherited, lock)
        with job.store.sharing_training(key, task.work):
            summary = run_trainer(task, held_open, job.progress, _scorers(job, training, where), job.environment)
        write_record(job.store, continuing.name, record.model_copy(update={"finished": True}))
    return summary


def _record(params: Mapping[str, Json], digests: Mapping[str, str], continuing: Continuing) -> TrainingRecord:
    """Of a training that begins, or goes on. `digests` are those of the inputs."""
    names = ("training", "start", "captions", "model", "sampling", "face_model")
    settings = {name: params[name] for name in names} | {"inputs": dict(digests)}
    settings |= {"scores": params["scores"]} if "scores" in params else {}
    key = training_key({**settings, "code": STAGE.version}, continuing.ancestor)
    return TrainingRecord(key=key, settings=settings, finished=False, ancestor=continuing.ancestor)


@contextmanager
def recorded_here(call: Call, store: ArtifactStore) -> Iterator[None]:
    """While another machine trains: what this one would keep in mind of a training of its own.

    Raises:
        UserError: another training of the name is unfinished and nothing was said about it.
    """
    continuing = Continuing.model_validate(call.local["continuing"])
    digests = {name: ref.digest for name, ref in call.recipe().inputs.items()}
    record = _record(call.params, digests, continuing)
    refuse_unfinished(store, continuing, record.settings)
    write_record(store, continuing.name, record)
    yield
    write_record(store, continuing.name, record.model_copy(update={"finished": True}))


def _scorers(job: Job, training: TrainingConfig, where: str) -> ScorersFile | None:
    if job.local["scorers"] is None or training.validation is None:
        return None
    here = {
        "references": job.inputs.get("references"),
        "cells": job.store.cells_path("scores"),
        "device": "cpu" if training.validation.scores_device == "cpu" else where,
    }
    return ScorersFile.model_validate(job.local["scorers"]).model_copy(update=here)


def _of_face_model(job: Job) -> dict[str, str]:
    return {} if job.params["face_model"] is None else {"face_model": job.params["face_model"]}


STAGE = Stage(kind="train", version="3", build=_build)


def refuse_unfinished(store: ArtifactStore, continuing: Continuing, settings: Mapping[str, Json]) -> None:
    """Raises UserError where another training of the name is unfinished and nothing was said about it.

    `settings` may be what is known of them before the training's inputs are there.
    """
    if not continuing.fresh and continuing.ancestor is None:
        refuse_another(store, continuing.name, settings)


def train(
    training: TrainingConfig,
    sampling: SamplingConfig,
    captions: CaptionsConfig,
    model: BaseModel,
    cached: Mapping[str, Handle],
    continuing: Continuing,
    face_model: FaceModel | None = None,
    scorers: Scorers | None = None,
) -> Call:
    """`cached` holds `latents`; `text`, unless captions are encoded in every step; where there are such pictures,
    `class_latents` and `validation_latents`; for methods that learn from preferences `pairs`, what says them, and with
    `validation_latents` `validation_pairs`; with a face model `identity`; and `references`, the dataset, if scorers
    compare with instance pictures."""
    draws = bool(training.validation_prompts)
    parts = (*BASE_PARTS, *model.family.text_parts) if training.live_text else BASE_PARTS
    parts = (*parts, "vae") if face_model is not None else parts
    params = {
        "training": training.lasting,
        "start": continuing.start,
        "captions": captions.model_dump(mode="json") if training.live_text else None,
        "max_steps": training.max_steps,
        "export": training.export,
        **({"export_every_steps": training.export_every_steps} if training.export_every_steps is not None else {}),
        **({"best_by": training.best_by} if training.best_by != BY_VALIDATION_LOSS else {}),
        **({"scores": scorers.identity()} if scorers is not None else {}),
        "model": model.digest() if draws else model.digest(*parts),
        "sampling": sampling.model_dump(mode="json") if draws else None,
        "ancestor": continuing.ancestor.digest if continuing.ancestor else None,
        "face_model": face_model.digest if face_model is not None else None,
    }
    local = {
        "face_model": str(face_model.recogniser) if face_model is not None else None,
        "training": training.model_dump(mode="json"),
        "sampling": sampling.model_dump(mode="json"),
        "captions": captions.model_dump(mode="json"),
        "continuing": continuing.model_dump(mode="json"),
        "scorers": scorers.file().model_dump(mode="json") if scorers is not None else None,
        "score_facts": {name: facts.model_dump() for name, facts in scorers.facts().items()} if scorers else {},
        **model.located,
    }
    return Call(STAGE, "train", params, cached, local, training.processes)


def trained_weights(artifact: Path) -> list[Path]:
    """The files of a train artifact, or of one of its steps, that decide what it draws."""
    return sorted(file for file in artifact.rglob("*.safetensors") if not file.is_relative_to(artifact / STEPS_FOLDER))
