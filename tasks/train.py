"""Stage `train`: the adapter, by the one training loop, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping

from sdxl_core.config import SamplingConfig, TrainingConfig
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.trainer import run_trainer
from tasks.weights import BaseModel, local_folders

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
_CANNOT_CHANGE_BYTES = {"save_every_steps", "keep_bundles", "wandb"}
_PARTS = ("unet", "scheduler")


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.train_job import TrainJob

    model, vae = local_folders(job.local)
    training = TrainingConfig.model_validate(job.local["training"])
    task = TrainJob(
        model=model,
        vae=vae,
        training=training,
        latents=job.inputs["latents"],
        text=job.inputs["text"],
        class_latents=job.inputs.get("class_latents"),
        sampling=SamplingConfig.model_validate(job.local["sampling"]),
        work=job.work,
        out=job.out,
        identity={"model": job.params["model"], **job.digests},
        device=job.device,
    )
    return run_trainer(task.model_dump_json(), job, training.processes)


STAGE = Stage(kind="train", version="1", build=_build, retries=2)


def train(training: TrainingConfig, sampling: SamplingConfig, model: BaseModel, cached: Mapping[str, Handle]) -> Call:
    """`cached` holds `latents`, `text` and, for prior preservation, `class_latents`."""
    validated = training.validation is not None
    drawn = sampling.model_dump(mode="json", exclude={"batch_size"}) if validated else None
    params = {
        "training": training.model_dump(mode="json", exclude=_CANNOT_CHANGE_BYTES),
        "model": model.digest() if validated else model.digest(*_PARTS),
        "sampling": drawn,
    }
    local = {
        "training": training.model_dump(mode="json"),
        "sampling": sampling.model_dump(mode="json"),
        **model.located,
    }
    return Call(STAGE, "train", params, cached, local)
