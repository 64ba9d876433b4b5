"""A trained LoRA as the files that other programs load.

`pytorch_lora_weights.safetensors` is diffusers' layout, with rank and alpha in its metadata; `kohya_lora.safetensors`
is the layout of kohya's sd-scripts, ComfyUI and A1111, with alpha as tensors. Both mean the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from sdxl_core.adapter_start import DIFFUSERS_FILE, KOHYA_FILE
from sdxl_core.adapter_targets import target_ends
from sdxl_core.from_base import doubled
from sdxl_core.model import COMPONENTS
from sdxl_core.peft_layers import ADAPTER_NAME, adapted_layers, pattern
from sdxl_core.tensor_files import write_tensors
from sdxl_core.training_config import LoraConfig, Ranked
from sdxl_core.training_config.adapters import FROM_BASE, REGEX
from sdxl_core.weight_files.metadata import kohya_identity, spec_identity
from sdxl_core.weight_files.original_names import UnetLayout, kohya_name

__all__ = ["ADAPTER_NAME", "DIFFUSERS_FILE", "KOHYA_FILE", "export_lora"]


@dataclass(frozen=True)
class LoraFactors:
    """One layer's LoRA: the weight grows by alpha / rank times up @ down, both flattened to matrices."""

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None
    """Of every output (DoRA), in peft's shape."""

    @property
    def rank(self) -> int:
        return len(self.down)


def trained_factors(module: nn.Module) -> dict[str, LoraFactors]:
    """The LoRA of every layer of a network, float32, by the layers' names in memory."""
    return {name: _factors(layer) for name, layer in adapted_layers(module).items()}


def export_lora(parts: Mapping[str, nn.Module], lora: LoraConfig, out: Path, provenance: Mapping[str, str]) -> None:
    """Write both files of the LoRA on `parts` into `out`; `provenance` (digests, versions) goes into both headers."""
    out.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Tensor] = {}
    described: dict[str, Any] = {}
    kohya: dict[str, Tensor] = {}
    layout = unet_layout(parts)
    for part, module in parts.items():
        factors = trained_factors(module)
        metadata = _adapter_metadata(part, module, lora, factors)
        described |= {f"{part}.{key}": value for key, value in metadata.items()}
        for name, found in factors.items():
            stored = COMPONENTS[part].stored_name(name)
            weights |= {f"{part}.{stored}.{key}": tensor for key, tensor in _for_diffusers(part, found).items()}
            stem = kohya_name(part, stored, layout)
            kohya |= {f"{stem}.{key}": tensor for key, tensor in _for_kohya(found, _usual(lora)[1]).items()}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(described, sort_keys=True), **provenance}
    write_tensors(out / DIFFUSERS_FILE, weights, header)
    kohya_metadata = spec_identity(is_lora=True) | kohya_identity(*_usual(lora), arguments=conv_arguments(lora))
    write_tensors(out / KOHYA_FILE, kohya, kohya_metadata | dict(provenance))


def unet_layout(parts: Mapping[str, nn.Module]) -> UnetLayout:
    """Of the UNet among them, whose layers have other names in kohya's files."""
    config: Any = parts["unet"].config
    return UnetLayout.of(dict(config))


def _factors(layer: LoraLayer) -> LoraFactors:
    rank, scale = layer.r[ADAPTER_NAME], layer.scaling[ADAPTER_NAME]
    if hasattr(layer, "initial_factors"):
        down, up = doubled(layer, ADAPTER_NAME)
    else:
        down, up = layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight
    # as configured, unless files cannot say it so: they scale by alpha / rank
    as_configured = len(down) == rank and not layer.use_rslora[ADAPTER_NAME]
    alpha = layer.lora_alpha[ADAPTER_NAME] if as_configured else scale * len(down)
    magnitudes = layer.lora_magnitude_vector
    magnitude = magnitudes[ADAPTER_NAME].weight.detach().float() if ADAPTER_NAME in magnitudes else None
    return LoraFactors(down.detach().float(), up.detach().float(), alpha, magnitude)


def _usual(lora: LoraConfig) -> tuple[int, float]:
    """Rank and alpha of most layers, as files say them."""
    rank = 2 * lora.rank if lora.init in FROM_BASE else lora.rank
    scale = lora.scaled_alpha / (lora.rank**0.5 if lora.use_rslora else lora.rank)
    plain = rank == lora.rank and not lora.use_rslora
    return rank, lora.scaled_alpha if plain else scale * rank


def _adapter_metadata(
    part: str, module: nn.Module, lora: LoraConfig, factors: Mapping[str, LoraFactors]
) -> dict[str, Any]:
    """The arguments of peft's LoraConfig with which diffusers makes the same adapter."""
    config: Any = module.peft_config
    targets = config[ADAPTER_NAME].target_modules  # a set, in an order of the process's own
    preset = [] if lora.targets.startswith(REGEX) else target_ends(part, lora.targets)
    rank, alpha = _usual(lora)
    described: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": preset if targets == set(preset) else sorted(targets),
    }
    ranks = pattern({name: found.rank for name, found in factors.items()}, rank)
    alphas = pattern({name: found.alpha for name, found in factors.items()}, alpha)
    described |= {"rank_pattern": ranks} if ranks else {}
    described |= {"alpha_pattern": alphas} if alphas else {}
    return described | ({"use_dora": True} if lora.use_dora else {})


def _for_diffusers(part: str, found: LoraFactors) -> dict[str, Tensor]:
    tensors = {"lora_A.weight": found.down, "lora_B.weight": found.up}
    if found.magnitude is None:
        return tensors
    # the usual name of a magnitude has no `.weight`; under it, transformers 5 leaves a text encoder's unread
    name = "lora_magnitude_vector" if part == "unet" else "lora_magnitude_vector.weight"
    return tensors | {name: found.magnitude}


def _for_kohya(found: LoraFactors, alpha: float) -> dict[str, Tensor]:
    """One alpha for the whole file, as diffusers gives attention layers with another one the usual one; where it is not
    the layer's, its factor goes into the weights. `dora_scale` is outputs x 1 (x 1 x 1), LyCORIS' `wd_on_out`."""
    up = found.up if found.alpha == alpha else found.up * (found.alpha / alpha)
    tensors = {"lora_down.weight": found.down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}
    if found.magnitude is None:
        return tensors
    return tensors | {"dora_scale": found.magnitude.reshape(-1, *[1] * (found.up.dim() - 1))}


def conv_arguments(lora: Ranked) -> dict[str, str]:
    """kohya's `network_args` for convolutions."""
    if lora.conv_rank is None:
        return {}
    rank, alpha = lora.rank_at(None, convolution=True)
    return {"conv_dim": str(rank), "conv_alpha": str(alpha)}
