"""Frozen weights in fewer bits. To add a format: a file here, a line below, its name in `QuantizationConfig`."""

from __future__ import annotations

import torch
from torch import nn

from sdxl_core.quantization.base import Format, QuantizedLinear
from sdxl_core.quantization.nf4 import Nf4
from sdxl_core.quantization.scaled import Fp8, Int8
from sdxl_core.training_config import QuantizationConfig

FORMATS: dict[str, Format] = {"int8": Int8(), "fp8": Fp8(), "nf4": Nf4()}
WHERE = "attentions"
"""The blocks that hold all but a hundredth of SDXL's linear weights; the rest, which takes in time and sizes, stays."""


def quantize_frozen(unet: nn.Module, config: QuantizationConfig, device: torch.device) -> None:
    """Replace the frozen linear layers of a UNet's transformers, below adapters where there are any; layer by layer, on
    the device, where that is quick."""
    for parent_name, parent in list(unet.named_modules()):
        if WHERE not in parent_name.split("."):
            continue
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and not child.weight.requires_grad:
                setattr(parent, name, QuantizedLinear(child.to(device), FORMATS[config.kind]))


__all__ = ["FORMATS", "QuantizedLinear", "quantize_frozen"]
