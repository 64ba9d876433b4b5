"""The modules of a model that a LoRA can change, with the shapes of their weights, from configurations alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdxl_core.weight_files.components import read_json
from sdxl_core.weight_files.original_names import UnetLayout
from sdxl_core.weight_files.single_file import text_module_name
from sdxl_core.weight_files.streamed import Shape

Part = Literal["unet", "text_encoder", "text_encoder_2"]
PARTS: tuple[Part, ...] = get_args(Part)

# what decides shapes and names in the configurations of stabilityai/stable-diffusion-xl-base-1.0
SDXL: dict[Part, dict[str, Any]] = {
    "unet": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "text_encoder_2": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
}


@dataclass(frozen=True)
class Architecture:
    """Which linear layers and convolutions a model has."""

    name: str
    """For messages."""
    layout: UnetLayout
    modules: Mapping[Part, Mapping[str, Shape]]
    """Part -> diffusers' module name (text encoders': with `text_model.`) -> shape of its weight."""

    @classmethod
    def of(cls, base: Path) -> Architecture:
        """Of a checkpoint's folder; only its configurations are read.

        Raises:
            UserError: a configuration is missing, or describes a UNet that the original layout does not know.
        """
        return cls.described(str(base), {part: read_json(base / part / "config.json") for part in PARTS})

    @classmethod
    def described(cls, name: str, configs: Mapping[Part, Mapping[str, Any]]) -> Architecture:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(dict(configs["unet"]))
            first = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
            second = CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"]))
        found: dict[Part, Mapping[str, Shape]] = {
            "unet": _weights(unet),
            "text_encoder": {text_module_name(name): shape for name, shape in _weights(first).items()},
            "text_encoder_2": {text_module_name(name): shape for name, shape in _weights(second).items()},
        }
        return cls(name, UnetLayout.of(configs["unet"]), found)


@cache
def sdxl() -> Architecture:
    """Stable Diffusion XL's own, for when no base model is named."""
    return Architecture.described("Stable Diffusion XL", SDXL)


def _weights(model: nn.Module) -> dict[str, Shape]:
    layers = (nn.Linear, nn.Conv2d)
    return {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, layers)}
