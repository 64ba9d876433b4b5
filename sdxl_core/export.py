"""A trained LoRA as the files that other programs load.

`pytorch_lora_weights.safetensors` is diffusers' layout, with rank and alpha in its metadata; `kohya_lora.safetensors`
is the layout of kohya's sd-scripts, ComfyUI and A1111, with alpha as tensors. Both hold the same numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from sdxl_core.model import COMPONENTS
from sdxl_core.tensor_files import write_tensors
from sdxl_core.training_config import LoraConfig, LoraTargets

LORA_TARGETS: dict[LoraTargets, list[str]] = {
    "attention": ["to_k", "to_q", "to_v", "to_out.0"],
    "attention+feed-forward": ["to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"],
}
TEXT_TARGETS: dict[LoraTargets, list[str]] = {
    "attention": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "attention+feed-forward": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
KOHYA_PARTS = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
ADAPTER_NAME = "default"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
KOHYA_FILE = "kohya_lora.safetensors"


def lora_targets(part: str, targets: LoraTargets) -> list[str]:
    """Ends of the names of the modules that a LoRA changes."""
    return (LORA_TARGETS if part == "unet" else TEXT_TARGETS)[targets]


def export_lora(parts: Mapping[str, nn.Module], lora: LoraConfig, out: Path, provenance: Mapping[str, str]) -> None:
    """Write both files of the LoRA on `parts` into `out`; `provenance` (digests, versions) goes into both headers."""
    out.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Tensor] = {}
    described: dict[str, Any] = {}
    for part, module in parts.items():
        state = get_peft_model_state_dict(module, adapter_name=ADAPTER_NAME)
        stored_name = COMPONENTS[part].stored_name
        weights |= {f"{part}.{stored_name(name)}": tensor.detach().float() for name, tensor in state.items()}
        adapter = {
            "r": lora.rank,
            "lora_alpha": lora.scaled_alpha,
            "lora_dropout": lora.dropout,
            "target_modules": lora_targets(part, lora.targets),
        }
        described |= {f"{part}.{key}": value for key, value in adapter.items()}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(described, sort_keys=True), **provenance}
    write_tensors(out / DIFFUSERS_FILE, weights, metadata)
    kohya_metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": str(lora.scaled_alpha),
        **provenance,
    }
    layers: Any = parts["unet"].config.layers_per_block  # type: ignore[union-attr]
    write_tensors(out / KOHYA_FILE, to_kohya(weights, lora.scaled_alpha, layers), kohya_metadata)


def to_kohya(weights: Mapping[str, Tensor], alpha: float, layers_per_block: int) -> dict[str, Tensor]:
    """peft's LoRA tensors (`<part>.<module>.lora_A.weight`) -> kohya's names, one alpha for every module."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        part, module = name.split(".", 1)
        module, factor = module.removesuffix(".weight").rsplit(".", 1)
        original = original_module_name(module, layers_per_block) if part == "unet" else module
        stem = f"{KOHYA_PARTS[part]}_{original.replace('.', '_')}"
        out[f"{stem}.{'lora_down' if factor == 'lora_A' else 'lora_up'}.weight"] = tensor
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
