"""Class images for prior preservation: what the base model makes of the class, before it is taught the instance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from sdxl_core.cached_pictures import CachedPictures, Caches
from sdxl_core.config import PriorConfig
from sdxl_core.data.records import Record, write_records
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.prompts import prompt_seed
from sdxl_core.runtime import choose_device
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
    pictures = CachedPictures(
        [Request(prior.prompt, prompt_seed(prior.seed, "class", i)) for i in range(prior.count)],
        model=model,
        sampling=prior.sampling,
        device=choose_device(device),
        caches=caches,
        progress=progress,
    )
    (out / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for i, png in enumerate(pictures):
        sha256 = hashlib.sha256(png).hexdigest()
        (out / "images" / f"{sha256}.png").write_bytes(png)
        records.append(
            Record(
                image=f"images/{sha256}.png",
                sha256=sha256,
                width=prior.sampling.width_px,
                height=prior.sampling.height_px,
                text=prior.prompt,
                concept=None,
                source=f"class {i:05d}",
            )
        )
    write_records(out, records)
    return {"pictures": len(records), "generated": pictures.generated}
