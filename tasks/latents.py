"""Stage `latents`: every picture of a dataset through the VAE."""

from __future__ import annotations

from pathlib import Path

from sdxl_core.config import TransformConfig
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.weights import BaseModel


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.latents import encode_latents

    return encode_latents(
        transform=TransformConfig.model_validate(job.params["transform"]),
        dataset=job.inputs["dataset"],
        vae=Path(job.local["vae"]),
        vae_digest=job.params["vae"],
        out=job.out,
        cells=job.store.cells("latents"),
        device=job.device,
        progress=job.progress,
    )


STAGE = Stage(kind="latents", version="1", build=_build)


def encode(label: str, dataset: Handle, transform: TransformConfig, model: BaseModel) -> Call:
    """`dataset` may be the instance pictures or class images."""
    params = {"transform": transform.model_dump(mode="json"), "vae": model.digest("vae")}
    return Call(STAGE, label, params, {"dataset": dataset}, {"vae": str(model.vae_folder)})
