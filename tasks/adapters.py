"""Whether the configured adapter fits the base model, and what it begins with, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sdxl_core.adapter_start import require_same_layers, start_files
from sdxl_core.adapter_targets import layer_shapes
from sdxl_core.training_config import Targeted, TrainingConfig
from tasks.checkpoint import component_tensors
from tasks.digests import digest_json
from tasks.weights import BaseModel


def check_adapter(training: TrainingConfig, model: BaseModel, digest_file: Callable[[Path], str]) -> str | None:
    """Refuse targets, ranks and a beginning that do not fit the base's networks, by the headers of its files alone.

    Returns the digest of the adapter that is begun with, if any.

    Raises:
        UserError: naming the setting.
    """
    adapter = training.adapter
    if not isinstance(adapter, Targeted):
        return None
    layers = {
        part: layer_shapes(component_tensors(model.folder / part, part, "model.base"))
        for part in training.adapted_parts
    }
    unet = json.loads((model.folder / "unet" / "config.json").read_text(encoding="utf-8"))
    require_same_layers(adapter, layers, unet)
    files = start_files(adapter)
    return digest_json([digest_file(file) for file in files]) if files else None
