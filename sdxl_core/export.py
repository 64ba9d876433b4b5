"""A trained LoRA as the files that other programs load.

`pytorch_lora_weights.safetensors` is diffusers' layout, with rank and alpha in its metadata; `kohya_lora.safetensors`
is the layout of kohya's sd-scripts, ComfyUI and A1111, with alpha as tensors. Both hold the same numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from sdxl_core.tensor_files import write_tensors
from sdxl_core.training_config import LoraConfig, LoraTargets

LORA_TARGETS: dict[LoraTargets, list[str]] = {
    "attention": ["to_k", "to_q", "to_v", "to_out.0"],
    "attention+feed-forward": ["to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"],
}
ADAPTER_NAME = "default"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
KOHYA_FILE = "kohya_lora.safetensors"


def export_lora(unet: UNet2DConditionModel, lora: LoraConfig, out: Path, provenance: Mapping[str, str]) -> None:
    """Write both files into `out`; `provenance` (digests, versions) goes into both headers."""
    out.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(unet, adapter_name=ADAPTER_NAME)
    weights = {name: tensor.detach().float() for name, tensor in state.items()}
    adapter = {
        "r": lora.rank,
        "lora_alpha": lora.scaled_alpha,
        "lora_dropout": lora.dropout,
        "target_modules": LORA_TARGETS[lora.targets],
    }
    described = {f"unet.{key}": value for key, value in adapter.items()}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(described, sort_keys=True), **provenance}
    write_tensors(out / DIFFUSERS_FILE, {f"unet.{name}": tensor for name, tensor in weights.items()}, metadata)
    kohya_metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": str(lora.scaled_alpha),
        **provenance,
    }
    kohya = to_kohya(weights, lora.scaled_alpha, unet.config.layers_per_block)
    write_tensors(out / KOHYA_FILE, kohya, kohya_metadata)


def to_kohya(weights: dict[str, Tensor], alpha: float, layers_per_block: int) -> dict[str, Tensor]:
    """peft's UNet LoRA tensors (`<module>.lora_A.weight`) -> kohya's names, one alpha for every module."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        module, part = name.removesuffix(".weight").rsplit(".", 1)
        stem = "lora_unet_" + original_module_name(module, layers_per_block).replace(".", "_")
        out[f"{stem}.{'lora_down' if part == 'lora_A' else 'lora_up'}.weight"] = tensor
        out[f"{stem}.alpha"] = torch.tensor(alpha)
    return out


def original_module_name(module: str, layers_per_block: int) -> str:
    """diffusers' UNet module name -> its name in Stability's original UNet, which kohya's files use.

    There, blocks are one list: each level's layers and then its resampler; a layer holds its ResNet as `.0` and its
    attention as `.1`.
    """
    levels = layers_per_block + 1
    if match := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", module):
        level, kind, layer, rest = int(match[1]), match[2], int(match[3]), match[4]
        return f"input_blocks.{1 + level * levels + layer}.{int(kind == 'attentions')}.{rest}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", module):
        level, kind, layer, rest = int(match[1]), match[2], int(match[3]), match[4]
        return f"output_blocks.{level * levels + layer}.{int(kind == 'attentions')}.{rest}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", module):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{match[3]}"
    raise ValueError(f"no place in the original UNet for {module}")
