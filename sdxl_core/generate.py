"""Image sets: a model's pictures of a prompt set, each from the noise of its prompt and replicate."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, MutableMapping
from pathlib import Path

from diffusers import StableDiffusionXLPipeline
from PIL import Image

from sdxl_core.adapters import load_trained
from sdxl_core.config import SamplingConfig
from sdxl_core.model import load_pipeline
from sdxl_core.prompts import Prompt, prompt_seed
from sdxl_core.runtime import choose_device
from sdxl_core.sampling import Request, cached_pictures


def generate_images(
    *,
    sampling: SamplingConfig,
    prompts: tuple[Prompt, ...],
    replicates: int,
    seed: int,
    model: Path,
    vae: Path | None,
    adapter: Path | None,
    model_digest: str,
    out: Path,
    cells: MutableMapping[str, bytes],
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Generate `replicates` pictures of every prompt into `images/`, `records.jsonl` and `set.json`.

    `adapter` is a LoRA file, or a folder that the trainer exported to. `model_digest` stands for base, VAE and adapter
    together. Returns {"pictures", "generated"}.

    Raises:
        UserError: the device or precision is not to be had.
    """
    where = choose_device(device)

    def load() -> StableDiffusionXLPipeline:
        pipeline = load_pipeline(model, vae, sampling, where)
        if adapter is not None:
            load_trained(pipeline, adapter)
        return pipeline

    wanted = [(p, r, prompt_seed(seed, p.id, r)) for p in prompts for r in range(replicates)]
    pngs, generated = cached_pictures(
        [Request(prompt.prompt, number) for prompt, _, number in wanted],
        sampling=sampling,
        model_digest=model_digest,
        load=load,
        cells=cells,
        progress=progress,
    )
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for (prompt, replicate, number), png in zip(wanted, pngs, strict=True):
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
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    (out / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    described = {"model": model_digest, "sampling": sampling.model_dump(mode="json", exclude={"batch_size"})}
    (out / "set.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {"pictures": len(wanted), "generated": generated}


def pixel_digest(png: bytes) -> str:
    """sha256 of mode, size and decoded pixels: the same for the same picture, however it was compressed."""
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGB")
    header = f"RGB,{picture.width},{picture.height},".encode()
    return hashlib.sha256(header + picture.tobytes()).hexdigest()
