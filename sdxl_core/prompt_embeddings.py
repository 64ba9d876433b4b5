"""Prompts as embeddings, of several chunks too: laid side by side, as ComfyUI and A1111 do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from sdxl_core.text_encoders import TextEncoders, Tokenizers

# R prompts, S tokens, E text width, P pooled width


def chunks_needed(pipeline: StableDiffusionXLPipeline, prompts: Sequence[str], max_chunks: int) -> list[int]:
    """How many chunks each prompt fills."""
    tokenizers = Tokenizers.of(pipeline)
    return [tokenizers.chunks(prompt, max_chunks).shape[1] for prompt in prompts]


def embeddings(
    pipeline: StableDiffusionXLPipeline, prompts: Sequence[str], negative: str | None, max_chunks: int
) -> dict[str, Tensor]:
    """`prompt_embeddings` by a pipeline's own encoders, in its UNet's format."""
    encoders = TextEncoders(pipeline.text_encoder, pipeline.text_encoder_2)
    zeros = bool(pipeline.config.force_zeros_for_empty_prompt)
    found = prompt_embeddings(
        Tokenizers.of(pipeline), encoders, prompts, negative, max_chunks=max_chunks, zeros=zeros, device=pipeline.device
    )
    return {name: value.to(pipeline.unet.dtype) for name, value in found.items()}


@torch.no_grad()
def prompt_embeddings(
    tokenizers: Tokenizers,
    encoders: TextEncoders,
    prompts: Sequence[str],
    negative: str | None,
    *,
    max_chunks: int,
    zeros: bool,
    device: torch.device,
) -> dict[str, Tensor]:
    """What diffusers' pipeline takes in the place of prompts, all of the length of the longest.

    Without a negative prompt, guidance starts from what the checkpoint takes for nothing: `zeros`, or the empty text.
    """
    ids_R2KT, _ = tokenizers.batch([*prompts, negative or ""], max_chunks)
    text_RSE, pooled_RP = encoders(ids_R2KT.to(device))
    if negative is None and zeros:
        text_RSE[-1], pooled_RP[-1] = 0.0, 0.0
    return {
        "prompt_embeds": text_RSE[:-1],
        "pooled_prompt_embeds": pooled_RP[:-1],
        "negative_prompt_embeds": text_RSE[-1:].expand(len(prompts), -1, -1),
        "negative_pooled_prompt_embeds": pooled_RP[-1:].expand(len(prompts), -1),
    }
