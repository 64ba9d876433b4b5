"""LoRAs of a UNet in peft's own layout: `adapter_model.safetensors`, with what they mean in `adapter_config.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdxl_core.adapter_start import PEFT_CONFIG
from sdxl_core.errors import UserError
from sdxl_core.weight_files import lora_diffusers
from sdxl_core.weight_files.lora import LoraFile
from sdxl_core.weight_files.streamed import open_tensors

PREFIX = "base_model.model."
"""Where a PeftModel has the network."""


def is_peft(names: list[str]) -> bool:
    return bool(names) and all(name.startswith(PREFIX) for name in names)


def read_peft(file: Path) -> LoraFile:
    """Raises UserError where there is no configuration beside it, or it is of another kind of adapter."""
    settings = read_config(file.with_name(PEFT_CONFIG))
    tensors = {f"unet.{name.removeprefix(PREFIX)}": tensor for name, tensor in open_tensors(file).items()}
    return lora_diffusers.lora_of(tensors, {"unet": settings}, {}, file)


def read_config(file: Path) -> dict[str, Any]:
    """Raises UserError where it is no configuration of a LoRA."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError.about(str(file), expected="a LoRA's configuration, as peft writes it", got=error) from None
    kind = settings.get("peft_type") if isinstance(settings, dict) else None
    if kind != "LORA":
        raise UserError.about(str(file), expected="peft_type LORA", got=kind)
    return dict(settings)
