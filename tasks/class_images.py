"""Stage `class_images`: what the base model makes of the class prompt, for prior preservation."""

from __future__ import annotations

from sdxl_core.config import PriorConfig
from tasks.manifest import Json
from tasks.stage import Call, Job, Stage
from tasks.weights import BaseModel, local_folders


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.cached_pictures import Caches
    from sdxl_core.class_images import generate_class_images
    from sdxl_core.drawing_model import DrawingModel

    base, vae = local_folders(job.local)
    return generate_class_images(
        prior=PriorConfig.model_validate(job.params["prior"]),
        model=DrawingModel(base, vae, (), job.params["model"], job.local["text_digest"]),
        out=job.out,
        caches=Caches(job.store.cells("images"), job.store.cells("prompts")),
        device=job.device,
        progress=job.progress,
    )


STAGE = Stage(kind="class_images", version="2", build=_build)


def generate(prior: PriorConfig, model: BaseModel) -> Call:
    params = {"prior": prior.model_dump(mode="json"), "model": model.digest()}
    return Call(STAGE, "class_images", params, local={"text_digest": model.text_digest, **model.located})
