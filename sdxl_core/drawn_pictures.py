"""Pictures that a model draws to be taught by: class images, and those that are to be preferred."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sdxl_core.cached_pictures import CachedPictures, Caches, PictureCells
from sdxl_core.config import DrawnConfig, SamplingConfig
from sdxl_core.data.records import Record, write_records
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.prompts import Prompt, prompt_seed
from sdxl_core.runtime import choose_device
from sdxl_core.sampling import Request


def draw_dataset(
    *,
    drawn: DrawnConfig,
    prompts: Sequence[Prompt],
    model: DrawingModel,
    out: Path,
    caches: Caches,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Generate `drawn.pictures_per_prompt` pictures of every prompt into a folder of the dataset artifact's form.

    Every picture has its own seed, which no picture of an evaluation has, and is cached by itself: more prompts or
    pictures generate only the new ones. Returns {"pictures", "generated"}.

    Raises:
        UserError: as `generate_images` does.
    """
    sources = [f"{prompt.id} {i:03d}" for prompt in prompts for i in range(drawn.pictures_per_prompt)]
    requests = _requests(drawn, prompts)
    return draw_records(
        requests, sources, drawn.sampling, model=model, out=out, caches=caches, device=device, progress=progress
    )


def drawn_cells(*, drawn: DrawnConfig, prompts: Sequence[Prompt], model: DrawingModel, caches: Caches) -> PictureCells:
    """The pictures of which `draw_dataset` makes a dataset. Raises UserError as it does of prompts."""
    return PictureCells(_requests(drawn, prompts), model=model, sampling=drawn.sampling, caches=caches)


def _requests(drawn: DrawnConfig, prompts: Sequence[Prompt]) -> list[Request]:
    for prompt in prompts:
        prompt.sampling(drawn.sampling)
    return [
        Request(p.prompt, prompt_seed(drawn.seed, f"drawn/{p.seed_of or p.id}", i), p.settings)
        for p in prompts
        for i in range(drawn.pictures_per_prompt)
    ]


def draw_records(
    requests: Sequence[Request],
    sources: Sequence[str],
    sampling: SamplingConfig,
    *,
    model: DrawingModel,
    out: Path,
    caches: Caches,
    device: str,
    progress: Callable[[int, int], None],
) -> dict[str, int]:
    """`images/<sha256>.png` and `records.jsonl`, in the order of the requests; `sources` are what records call them."""
    pictures = CachedPictures(
        requests, model=model, sampling=sampling, device=choose_device(device), caches=caches, progress=progress
    )
    (out / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for request, source, png in zip(requests, sources, pictures, strict=True):
        sha256, as_drawn = hashlib.sha256(png).hexdigest(), request.settings.of(sampling)
        (out / "images" / f"{sha256}.png").write_bytes(png)
        records.append(
            Record(
                image=f"images/{sha256}.png",
                sha256=sha256,
                width=as_drawn.width_px,
                height=as_drawn.height_px,
                text=request.prompt,
                concept=None,
                source=source,
            )
        )
    write_records(out, records)
    return {"pictures": len(records), "generated": pictures.generated}
