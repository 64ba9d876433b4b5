"""Stage `class_images`: what the base model makes of the class prompt, for prior preservation."""

from __future__ import annotations

from sdxl_core.config import PriorConfig
from tasks.manifest import Json
from tasks.stage import Call, Job, Stage
from tasks.weights import BaseModel, local_folders


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.class_images import generate_class_images

    model, vae = local_folders(job.local)
    return generate_class_images(
        prior=PriorConfig.model_validate(job.local["prior"]),
        model=model,
        vae=vae,
        model_digest=job.params["model"],
        out=job.out,
        cells=job.store.cells("images"),
        device=job.device,
        progress=job.progress,
    )


STAGE = Stage(kind="class_images", version="1", build=_build, retries=1)


def generate(prior: PriorConfig, model: BaseModel) -> Call:
    settings = prior.model_dump(mode="json", exclude={"sampling": {"batch_size"}})
    local = {"prior": prior.model_dump(mode="json"), **model.located}
    return Call(STAGE, "class_images", {"prior": settings, "model": model.digest()}, local=local)
