"""Stage `latents`: every picture of a dataset through the VAE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sdxl_core.config import Precision, TransformConfig
from tasks.manifest import Json
from tasks.stage import Call, Cells, Handle, Job, Stage
from tasks.weights import BaseModel


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.latents import encode_latents

    return encode_latents(
        transform=TransformConfig.model_validate(job.params["transform"]),
        dataset=job.inputs["dataset"],
        vae=Path(job.local["vae"]),
        vae_digest=job.params["vae"],
        faces=job.inputs.get("faces"),
        precision=job.params.get("precision", "fp32"),
        out=job.out,
        cells=job.store.cells("latents"),
        device=job.device,
        progress=job.progress,
    )


def _cells(job: Job) -> Cells:
    from sdxl_core.latents import LatentCells

    return LatentCells(
        transform=TransformConfig.model_validate(job.params["transform"]),
        dataset=job.inputs["dataset"],
        vae=Path(job.local["vae"]),
        vae_digest=job.params["vae"],
        faces=job.inputs.get("faces"),
        precision=job.params.get("precision", "fp32"),
        cells=job.store.cells("latents"),
    )


STAGE = Stage(kind="latents", version="2", build=_build, cells=_cells)


def encode(
    label: str,
    pictures: Mapping[str, Handle],
    transform: TransformConfig,
    model: BaseModel,
    precision: Precision = "fp32",
) -> Call:
    """`pictures` holds `dataset` (instance pictures or class images) and, with a face detector, `faces`."""
    params: dict[str, Json] = {"transform": transform.lasting, "vae": model.digest("vae")}
    params |= {} if precision == "fp32" else {"precision": precision}
    return Call(STAGE, label, params, pictures, {"vae": str(model.vae_folder)})
