"""Stage `class_images`: what the base model makes of the class prompt, for prior preservation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdxl_core.config import PriorConfig
from tasks.manifest import Json
from tasks.stage import Call, Cells, Job, Stage
from tasks.weights import BaseModel, local_folders

if TYPE_CHECKING:
    from sdxl_core.drawing_model import DrawingModel


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.cached_pictures import Caches
    from sdxl_core.class_images import generate_class_images

    return generate_class_images(
        prior=PriorConfig.model_validate(job.params["prior"]),
        model=_model(job),
        out=job.out,
        caches=Caches(job.store.cells("images"), job.store.cells("prompts")),
        device=job.device,
        progress=job.progress,
    )


def _cells(job: Job) -> Cells:
    from sdxl_core.cached_pictures import Caches
    from sdxl_core.class_images import class_image_cells

    return class_image_cells(
        prior=PriorConfig.model_validate(job.params["prior"]),
        model=_model(job),
        caches=Caches(job.store.cells("images"), job.store.cells("prompts")),
    )


def _model(job: Job) -> DrawingModel:
    from sdxl_core.drawing_model import DrawingModel

    base, vae = local_folders(job.local)
    return DrawingModel(base, vae, (), job.params["model"], job.local["text_digest"])


STAGE = Stage(kind="class_images", version="2", build=_build, cells=_cells)


def generate(prior: PriorConfig, model: BaseModel) -> Call:
    params = {"prior": prior.model_dump(mode="json"), "model": model.digest()}
    return Call(STAGE, "class_images", params, local={"text_digest": model.text_digest, **model.located})
