"""Image sets: a model's pictures of a prompt set, each from the noise of its prompt and replicate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sdxl_core.cached_pictures import CachedPictures, Caches, PictureCells
from sdxl_core.config import SamplingConfig
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.picture_files import pixel_digest
from sdxl_core.prompts import Prompt
from sdxl_core.runtime import choose_device
from sdxl_core.sampling import Request


def generate_images(
    *,
    sampling: SamplingConfig,
    prompts: tuple[Prompt, ...],
    replicates: int,
    seed: int,
    model: DrawingModel,
    out: Path,
    caches: Caches,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Generate `replicates` pictures of every prompt into `images/`, `records.jsonl` and `set.json`.

    Returns {"pictures", "generated"}; `generated` counts those not in `caches` before.

    Raises:
        UserError: the device or precision is not to be had, memory does not suffice, or a prompt's own settings do not
            go with `sampling`.
    """
    wanted = _wanted(sampling, prompts, replicates, seed)
    pictures = CachedPictures(
        _requests(wanted),
        model=model,
        sampling=sampling,
        device=choose_device(device),
        caches=caches,
        progress=progress,
    )
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for (prompt, replicate, number), png in zip(wanted, pictures, strict=True):
        file = f"images/{prompt.id}-{replicate}.png"
        (out / file).write_bytes(png)
        record = {
            "file": file,
            "prompt_id": prompt.id,
            "prompt": prompt.prompt,
            "category": prompt.category,
            "replicate": replicate,
            "seed": number,
            "image_sha256": pixel_digest(png),
            **prompt.further(),
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    (out / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    described = {"model": model.digest, "sampling": sampling.model_dump(mode="json")}
    (out / "set.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {"pictures": len(wanted), "generated": pictures.generated}


def image_cells(
    *,
    sampling: SamplingConfig,
    prompts: tuple[Prompt, ...],
    replicates: int,
    seed: int,
    model: DrawingModel,
    caches: Caches,
) -> PictureCells:
    """The pictures of which `generate_images` makes a set. Raises UserError as it does of prompts."""
    wanted = _wanted(sampling, prompts, replicates, seed)
    return PictureCells(_requests(wanted), model=model, sampling=sampling, caches=caches)


Wanted = list[tuple[Prompt, int, int]]
"""Prompt, replicate and seed of every picture."""


def _wanted(sampling: SamplingConfig, prompts: tuple[Prompt, ...], replicates: int, seed: int) -> Wanted:
    for prompt in prompts:
        prompt.sampling(sampling)
    return [(prompt, replicate, prompt.seed(seed, replicate)) for prompt in prompts for replicate in range(replicates)]


def _requests(wanted: Wanted) -> list[Request]:
    return [Request(prompt.prompt, number, prompt.settings) for prompt, _, number in wanted]
