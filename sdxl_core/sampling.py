"""Drawing pictures by diffusers' own pipeline, each from the noise of its own seed, in batches of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from PIL import Image
from torch import Tensor

from sdxl_core.config import SamplingConfig
from sdxl_core.decoding import Decoder, Pixels
from sdxl_core.errors import UserError
from sdxl_core.picture_settings import AS_CONFIGURED, PictureSettings
from sdxl_core.pipelines import Pipeline
from sdxl_core.prompt_embeddings import Guidance, Prompts, encoder_of, needed_texts
from sdxl_core.runtime import unless_out_of_memory
from sdxl_core.turns import TURNS


@dataclass(frozen=True)
class Request:
    """One picture to generate."""

    prompt: str
    seed: int
    settings: PictureSettings = AS_CONFIGURED
    """Its own, where they differ from those of all."""


Drawn = list[tuple[Request, Pixels]]


def draw(
    pipeline: Pipeline, requests: Sequence[Request], prompts: Prompts, sampling: SamplingConfig
) -> Iterator[Drawn]:
    """Draw the requests batch by batch; `prompts` holds their texts, and the pipeline needs no text encoders.

    A picture's initial noise is what `torch.Generator("cpu").manual_seed(seed)` gives, as for anyone who calls
    diffusers with that generator; so any picture can be made again outside this project.

    All passes of the UNet have `sampling.batch_size` rows (twice as many with guidance, in one call), filled up where
    fewer are left. For kernels compute a row alike whatever the others hold, but not whatever their number is: so a
    picture has the same bits whichever others are drawn beside it. Only where memory does not suffice are passes
    halved, and then the last bits are those of the smaller size. A pass holds pictures of the same settings.

    Raises:
        UserError: memory does not suffice for one picture.
    """
    decode = Decoder(pipeline.vae, sampling)
    for own, some in _by_settings(requests, sampling).items():
        guided = prompts.held_against(Guidance.of(own, zeros=prompts.guidance.zeros))
        for alike in _by_length(some, guided):
            yield from _draw_alike(pipeline, alike, guided, own, decode)


def _draw_alike(
    pipeline: Pipeline,
    alike: Sequence[Request],
    prompts: Prompts,
    sampling: SamplingConfig,
    decode: Decoder,
) -> Iterator[Drawn]:
    rows, start = sampling.batch_size, 0
    while start < len(alike):
        some = alike[start : start + rows]
        whole = [*some, *[some[-1]] * (rows - len(some))]
        with TURNS.computing():
            latents_BCHW = unless_out_of_memory(lambda whole=whole: _latents(pipeline, whole, prompts, sampling))  # type: ignore[misc]
            drawn = None if latents_BCHW is None else decode(latents_BCHW[: len(some)])
        if drawn is None:
            rows = _fewer(rows)
            continue
        yield list(zip(some, drawn, strict=True))
        start += len(some)


def sample(pipeline: Pipeline, requests: Sequence[Request], sampling: SamplingConfig) -> list[Image.Image]:
    """One picture per request, by a pipeline that has its text encoders."""
    guidance = Guidance.of(sampling, zeros=bool(pipeline.config.get("force_zeros_for_empty_prompt")))
    encode = encoder_of(pipeline, sampling.max_chunks)
    texts = texts_of(requests, sampling, zeros=guidance.zeros)
    prompts = Prompts({text: encode(text) for text in texts}, guidance)
    found = dict(pair for batch in draw(pipeline, requests, prompts, sampling) for pair in batch)
    return [Image.fromarray(found[request]) for request in requests]


def texts_of(requests: Sequence[Request], sampling: SamplingConfig, *, zeros: bool) -> list[str]:
    """Every text that has to be encoded to draw the requests, once. `zeros` is `Guidance`'s."""
    texts: dict[str, None] = {}
    for own, some in _by_settings(requests, sampling).items():
        prompts, guidance = [request.prompt for request in some], Guidance.of(own, zeros=zeros)
        texts |= dict.fromkeys(needed_texts(prompts, guidance, own.max_chunks))
    return list(texts)


def _by_settings(requests: Sequence[Request], sampling: SamplingConfig) -> dict[SamplingConfig, list[Request]]:
    found: dict[SamplingConfig, list[Request]] = {}
    for request in requests:
        found.setdefault(request.settings.of(sampling), []).append(request)
    return found


def _by_length(requests: Sequence[Request], prompts: Prompts) -> Iterator[list[Request]]:
    """Those of as many tokens together, so that no prompt is lengthened because of its company."""

    def tokens(request: Request) -> int:
        return prompts.tokens(request.prompt)

    return (list(alike) for _, alike in groupby(sorted(requests, key=tokens), tokens))


def _latents(pipeline: Pipeline, requests: Sequence[Request], prompts: Prompts, sampling: SamplingConfig) -> Tensor:
    """B x C x H x W, scaled, by one call of the pipeline."""
    found: Tensor = pipeline(
        **prompts.arguments([r.prompt for r in requests], pipeline.unet.device, pipeline.unet.dtype),
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        guidance_rescale=sampling.guidance_rescale,
        width=sampling.width_px,
        height=sampling.height_px,
        generator=[torch.Generator("cpu").manual_seed(r.seed) for r in requests],
        output_type="latent",
    ).images
    return found


def _fewer(rows: int) -> int:
    if rows == 1:
        raise UserError(
            "sampling: memory does not suffice to draw one picture; set sampling.precision=bf16, or smaller "
            "sampling.width_px and sampling.height_px"
        )
    return rows // 2
