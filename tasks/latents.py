"""Stage `latents`: every picture of a dataset through the VAE."""

from __future__ import annotations

from collections.abc import Mapping
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
        faces=job.inputs.get("faces"),
        out=job.out,
        cells=job.store.cells("latents"),
        device=job.device,
        progress=job.progress,
    )


STAGE = Stage(kind="latents", version="2", build=_build)


def encode(label: str, pictures: Mapping[str, Handle], transform: TransformConfig, model: BaseModel) -> Call:
    """`pictures` holds `dataset` (instance pictures or class images) and, with a face detector, `faces`."""
    params = {"transform": transform.lasting, "vae": model.digest("vae")}
    return Call(STAGE, label, params, pictures, {"vae": str(model.vae_folder)})
