"""Prompts of several chunks, for sampling: encoded chunk by chunk and laid side by side, as ComfyUI and A1111 do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from sdxl_core.text_encoders import TextEncoders, Tokenizers

# R prompts, K chunks, T tokens of a chunk, S = K T, E text width, P pooled width


def chunks_needed(pipeline: StableDiffusionXLPipeline, prompts: Sequence[str], max_chunks: int) -> list[int]:
    """How many chunks each prompt fills."""
    tokenizers = Tokenizers.of(pipeline)
    return [tokenizers.chunks(prompt, max_chunks).shape[1] for prompt in prompts]


@torch.no_grad()
def embeddings(
    pipeline: StableDiffusionXLPipeline, prompts: Sequence[str], negative: str | None, max_chunks: int
) -> dict[str, Tensor]:
    """What the pipeline takes in the place of `prompts`, all of the length of the longest.

    What is shorter is followed by chunks of the empty text. Without a negative prompt, guidance starts from what the
    checkpoint takes for nothing: zeros, or the empty text.
    """
    tokenizers, encoders = Tokenizers.of(pipeline), TextEncoders(pipeline.text_encoder, pipeline.text_encoder_2)
    texts = [*prompts, negative or ""]
    ids_2KT = [tokenizers.chunks(text, max_chunks) for text in texts]
    most, empty_21T = max(ids.shape[1] for ids in ids_2KT), tokenizers.chunks("")
    padded = [torch.cat([ids, empty_21T.expand(-1, most - ids.shape[1], -1)], dim=1) for ids in ids_2KT]
    text_RSE, pooled_RP = encoders(torch.stack(padded).to(pipeline.device))
    if negative is None and pipeline.config.force_zeros_for_empty_prompt:
        text_RSE[-1], pooled_RP[-1] = 0.0, 0.0
    rows = len(prompts)
    found: dict[str, Any] = {
        "prompt_embeds": text_RSE[:-1],
        "pooled_prompt_embeds": pooled_RP[:-1],
        "negative_prompt_embeds": text_RSE[-1:].expand(rows, -1, -1),
        "negative_pooled_prompt_embeds": pooled_RP[-1:].expand(rows, -1),
    }
    return {name: value.to(pipeline.unet.dtype) for name, value in found.items()}
