"""A whole SDXL checkpoint as one file, in the layout of Stability's releases that ComfyUI and A1111 load.

`model.diffusion_model.*` is the UNet, `first_stage_model.*` the VAE, `conditioner.embedders.0.transformer.*` the first
text encoder in transformers' names, `conditioner.embedders.1.model.*` the second in OpenCLIP's, whose attention has its
three inputs in one tensor and whose projection is transposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sdxl_core.errors import UserError
from sdxl_core.weight_files.original_names import (
    UnetLayout,
    original_openclip_module,
    original_unet_module,
    original_vae_module,
)
from sdxl_core.weight_files.streamed import LazyTensor

Tensors = Mapping[str, LazyTensor]
PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
_QKV = ("q_proj", "k_proj", "v_proj")


def to_single_file(
    components: Mapping[str, Tensors], configs: Mapping[str, Mapping[str, Any]], scheduler: Mapping[str, Any]
) -> dict[str, LazyTensor]:
    """Components in diffusers' names -> the single file's tensors.

    Args:
        components: tensors of `unet`, `vae`, `text_encoder` and `text_encoder_2`, by name.
        configs: each component's config.json.
        scheduler: scheduler_config.json.

    Raises:
        UserError: a component holds a tensor that has no place in the layout.
    """
    layout = UnetLayout.of(configs["unet"])
    levels = len(configs["vae"]["down_block_types"])
    out = _renamed(components["unet"], "unet", lambda module: original_unet_module(module, layout))
    vae = {name: _as_convolution(name, tensor) for name, tensor in components["vae"].items()}
    out |= _renamed(vae, "vae", lambda module: original_vae_module(module, levels))
    first = text_model_names(components["text_encoder"])
    out |= {PREFIXES["text_encoder"] + name: tensor for name, tensor in first.items()}
    out |= _openclip(text_model_names(components["text_encoder_2"]))
    return out | _marks(scheduler)


def _renamed(tensors: Tensors, component: str, original: Callable[[str], str]) -> dict[str, LazyTensor]:
    out = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        try:
            out[f"{PREFIXES[component]}{original(module)}.{kind}"] = tensor
        except ValueError as error:
            raise UserError(f"{component}: {name} cannot go into a single file: {error}") from None
    return out


def _as_convolution(name: str, tensor: LazyTensor) -> LazyTensor:
    """The VAE's attention is linear layers in diffusers and 1x1 convolutions in the original."""
    if ".attentions." not in name or len(tensor.shape) != 2:
        return tensor
    return LazyTensor((*tensor.shape, 1, 1), tensor.dtype, lambda: tensor.load()[:, :, None, None])


def text_model_names(tensors: Tensors) -> dict[str, LazyTensor]:
    """A text encoder's tensors in the names that begin with `text_model.`, whichever its file has.

    transformers 5.6 and later save `CLIPTextModel` without that beginning. `position_ids`, the numbers 0 to 76 that
    old releases saved, are left out.
    """
    names = {name: text_module_name(name) for name in tensors if not name.endswith("position_ids")}
    return {new: tensors[name] for name, new in names.items()}


def text_module_name(name: str) -> str:
    inside = name.startswith(("text_model.", "text_projection"))
    return name if inside else f"text_model.{name}"


def _openclip(tensors: Tensors) -> dict[str, LazyTensor]:
    plain, out = {}, {}
    prefix = PREFIXES["text_encoder_2"]
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(text_model\.encoder\.layers\.(\d+)\.self_attn\.)q_proj\.(weight|bias)", name):
            parts = [tensors[f"{match[1]}{part}.{match[3]}"] for part in _QKV]
            out[f"{prefix}transformer.resblocks.{match[2]}.attn.in_proj_{match[3]}"] = _stacked(parts)
        elif re.search(r"\.self_attn\.[kv]_proj\.", name):
            continue
        elif name == "text_model.embeddings.position_embedding.weight":
            out[f"{prefix}positional_embedding"] = tensor
        elif name == "text_projection.weight":
            out[f"{prefix}text_projection"] = _transposed(tensor)
        else:
            plain[name] = tensor
    return out | _renamed(plain, "text_encoder_2", original_openclip_module)


def _stacked(parts: list[LazyTensor]) -> LazyTensor:
    first = parts[0]
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    return LazyTensor(shape, first.dtype, lambda: torch.cat([part.load() for part in parts]))


def _transposed(tensor: LazyTensor) -> LazyTensor:
    return LazyTensor(tensor.shape[::-1], tensor.dtype, lambda: tensor.load().T.contiguous())


def _marks(scheduler: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """Empty tensors by which ComfyUI tells v-prediction and zero terminal SNR (its `supported_models.SDXL`)."""
    marks = []
    if scheduler.get("prediction_type") == "v_prediction":
        marks = ["v_pred"] + (["ztsnr"] if scheduler.get("rescale_betas_zero_snr") else [])
    empty: Tensor = torch.zeros(0)
    return {mark: LazyTensor.of(empty) for mark in marks}
