"""Class images for prior preservation: what the base model makes of the class, before it is taught the instance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdxl_core.cached_pictures import Caches, PictureCells
from sdxl_core.config import PriorConfig
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.drawn_pictures import draw_records
from sdxl_core.prompts import prompt_seed
from sdxl_core.sampling import Request


def generate_class_images(
    *,
    prior: PriorConfig,
    model: DrawingModel,
    out: Path,
    caches: Caches,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Generate `prior.count` pictures into a folder of the dataset artifact's form.

    Every picture has its own seed and is cached by itself: raising the count generates only the new ones, and an
    interrupted run goes on where it was. Returns {"pictures", "generated"}.

    Raises:
        UserError: as `generate_images` does.
    """
    requests = _requests(prior)
    sources = [f"class {i:05d}" for i in range(prior.count)]
    return draw_records(
        requests, sources, prior.sampling, model=model, out=out, caches=caches, device=device, progress=progress
    )


def class_image_cells(*, prior: PriorConfig, model: DrawingModel, caches: Caches) -> PictureCells:
    """The pictures of which `generate_class_images` makes a dataset."""
    return PictureCells(_requests(prior), model=model, sampling=prior.sampling, caches=caches)


def _requests(prior: PriorConfig) -> list[Request]:
    return [Request(prior.prompt, prompt_seed(prior.seed, "class", i)) for i in range(prior.count)]
