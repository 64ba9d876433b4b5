"""Which kernels compute attention, `training.attention`. To add one: a function here and its line in ATTENTIONS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, XFormersAttnProcessor

from sdxl_core.training_config import Attention

HEAD_WIDTH = 64  # of SDXL's heads


def use_attention(network: Any, attention: Attention, device: torch.device, dtype: torch.dtype) -> str | None:
    """Set a UNet's or text encoder's kernels; returns what is used instead of what was asked for, and why, if so."""
    return ATTENTIONS[attention](network, device, dtype)


def _torch(network: Any, device: torch.device, dtype: torch.dtype) -> None:
    """scaled_dot_product_attention, as diffusers and transformers have it anyway."""


def _math(network: Any, device: torch.device, dtype: torch.dtype) -> None:
    if isinstance(network, UNet2DConditionModel):
        network.set_attn_processor(AttnProcessor())
    else:
        network.set_attn_implementation("eager")


def _xformers(network: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    if not isinstance(network, UNet2DConditionModel):
        return None  # transformers has no xformers; captions are short
    if reason := _why_not(device, dtype):
        return (
            f"training.attention = xformers: it has no kernel for {str(dtype).removeprefix('torch.')} on {device.type} "
            f"here ({reason}); torch's own (sdpa) is used instead"
        )
    network.set_attn_processor(XFormersAttnProcessor())
    return None


def _why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Tried out, as it depends on the build, too."""
    import xformers.ops

    try:
        q_BSHE = torch.zeros(1, 8, 1, HEAD_WIDTH, device=device, dtype=dtype, requires_grad=True)
        xformers.ops.memory_efficient_attention(q_BSHE, q_BSHE, q_BSHE).sum().backward()
    except (NotImplementedError, ValueError, RuntimeError) as error:
        return next(iter(str(error).splitlines()), type(error).__name__).strip().rstrip(":")
    return None


ATTENTIONS: dict[Attention, Callable[[Any, torch.device, torch.dtype], str | None]] = {
    "auto": _torch,
    "sdpa": _torch,
    "xformers": _xformers,
    "math": _math,
}
