"""Generating pictures with diffusers' own pipeline, each from the noise of its own seed."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdxl_core.config import SamplingConfig
from sdxl_core.prompt_embeddings import chunks_needed, embeddings
from sdxl_core.runtime import batch_size_for
from sdxl_core.tensor_files import cell_key

VERSION = 1


@dataclass(frozen=True)
class Request:
    """One picture to generate."""

    prompt: str
    seed: int


def sample(
    pipeline: StableDiffusionXLPipeline, requests: Sequence[Request], sampling: SamplingConfig
) -> list[Image.Image]:
    """Generate one picture per request, in one batch.

    A picture's initial noise is what `torch.Generator("cpu").manual_seed(seed)` gives, as for anyone who calls
    diffusers with that generator; so any picture can be made again outside this project.
    """
    if sampling.max_chunks > 1:
        return _sample_long(pipeline, requests, sampling)
    negative = None if sampling.negative_prompt is None else [sampling.negative_prompt] * len(requests)
    return _call(pipeline, requests, sampling, {"prompt": [r.prompt for r in requests], "negative_prompt": negative})


def _sample_long(
    pipeline: StableDiffusionXLPipeline, requests: Sequence[Request], sampling: SamplingConfig
) -> list[Image.Image]:
    """Prompts of as many chunks go together, so that none is padded because of its company."""
    needed = chunks_needed(pipeline, [request.prompt for request in requests], sampling.max_chunks)
    pictures: dict[int, Image.Image] = {}
    for chunks in sorted(set(needed)):
        places = [i for i, count in enumerate(needed) if count == chunks]
        some = [requests[i] for i in places]
        prompts = embeddings(pipeline, [r.prompt for r in some], sampling.negative_prompt, sampling.max_chunks)
        pictures |= dict(zip(places, _call(pipeline, some, sampling, prompts), strict=True))
    return [pictures[i] for i in range(len(requests))]


def _call(
    pipeline: StableDiffusionXLPipeline, requests: Sequence[Request], sampling: SamplingConfig, prompts: dict[str, Any]
) -> list[Image.Image]:
    pictures: list[Image.Image] = pipeline(
        **prompts,
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        guidance_rescale=sampling.guidance_rescale,
        width=sampling.width_px,
        height=sampling.height_px,
        generator=[torch.Generator("cpu").manual_seed(r.seed) for r in requests],
        output_type="pil",
    ).images
    return pictures


def sample_in_batches(
    pipeline: StableDiffusionXLPipeline,
    requests: Sequence[Request],
    wanted: Collection[Request],
    sampling: SamplingConfig,
) -> Iterator[list[tuple[Request, Image.Image]]]:
    """Generate the `wanted` among `requests`, batch by batch; batches halve when memory ends.

    Batches are cut from all requests, not from the wanted ones: what else is in a batch moves a picture's last bits,
    and so an interrupted set that goes on between batches ends with the bytes of an undisturbed one.
    """
    size = sampling.batch_size or batch_size_for(sampling.width_px, sampling.height_px, pipeline.device)
    start = 0
    while start < len(requests):
        some = [request for request in requests[start : start + size] if request in wanted]
        try:
            pictures = sample(pipeline, some, sampling) if some else []
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = max(1, size // 2)
            torch.cuda.empty_cache()
            continue
        start += size
        yield list(zip(some, pictures, strict=True))


def png_bytes(picture: Image.Image, text: dict[str, str]) -> bytes:
    """PNG with `text` embedded; compressed lightly, which is five times faster and an eighth larger."""
    info = PngInfo()
    for name, value in text.items():
        info.add_itxt(name, value)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info, compress_level=1)
    return buffer.getvalue()


def parameters_text(request: Request, sampling: SamplingConfig, model_digest: str) -> str:
    """Generation parameters as A1111 and its relatives write and read them."""
    negative = [f"Negative prompt: {sampling.negative_prompt}"] if sampling.negative_prompt is not None else []
    settings: dict[str, Any] = {
        "Steps": sampling.steps,
        "Sampler": sampling.scheduler,
        "CFG scale": sampling.guidance_scale,
        "Seed": request.seed,
        "Size": f"{sampling.width_px}x{sampling.height_px}",
        "Model hash": model_digest[:10],
    }
    return "\n".join([request.prompt, *negative, ", ".join(f"{k}: {v}" for k, v in settings.items())])


def cached_pictures(
    requests: Sequence[Request],
    *,
    sampling: SamplingConfig,
    model_digest: str,
    load: Callable[[], StableDiffusionXLPipeline],
    cells: MutableMapping[str, bytes],
    progress: Callable[[int, int], None],
) -> tuple[list[bytes], int]:
    """PNG bytes of every request, and how many had to be generated; `load` is called only if any had to be.

    A picture is known by the model's digest, its prompt and seed, and the sampling settings that can change it.
    """
    spec = sampling.model_dump(mode="json", exclude={"batch_size"})
    keys = {
        r: cell_key(what="picture", version=VERSION, model=model_digest, prompt=r.prompt, seed=r.seed, sampling=spec)
        for r in requests
    }
    missing = {request for request in requests if keys[request] not in cells}
    done = 0
    batches = sample_in_batches(load(), list(keys), missing, sampling) if missing else iter(())
    for batch in batches:
        for request, picture in batch:
            text = {"parameters": parameters_text(request, sampling, model_digest)}
            cells[keys[request]] = png_bytes(picture, text)
            done += 1
        if batch:
            progress(done, len(missing))
    return [cells[keys[r]] for r in requests], len(missing)
