"""A network's layers by name, and those that peft has put an adapter beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from sdxl_core.model import COMPONENTS
from sdxl_core.unet_shapes import Shape

ADAPTER_NAME = "default"


def layer_names(part: str, module: nn.Module) -> list[tuple[str, str]]:
    """Names of a network's linear layers and convolutions: (in memory, in files)."""
    kind = COMPONENTS[part]
    layers = [name for name, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [(name, kind.stored_name(name)) for name in layers]


def stored_layers(part: str, module: nn.Module) -> dict[str, Shape]:
    """The layers of a network without an adapter by their names in files, with the shapes of their weights."""
    return {stored: _shape(module.get_submodule(name)) for name, stored in layer_names(part, module)}


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """peft's layers of a network, by their names in memory."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}


def pattern(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    """peft's way to say the values that are not the usual one: one expression of all names for every value.

    An expression a name would do too, and take minutes: peft tries all of them with every layer.
    """
    names: dict[Any, list[str]] = {}
    for name, value in values.items():
        if value != usual:
            names.setdefault(value, []).append(name.replace(".", r"\."))
    return {"|".join(sorted(found)): value for value, found in names.items()}


def _shape(layer: nn.Module) -> Shape:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return tuple(weight.shape)
