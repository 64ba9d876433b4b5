"""A trained LoRA as the files that other programs load.

`pytorch_lora_weights.safetensors` is diffusers' layout, with rank and alpha in its metadata; `kohya_lora.safetensors`
is the layout of kohya's sd-scripts, ComfyUI and A1111, with alpha as tensors. Both hold the same numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from diffusers import UNet2DConditionModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from sdxl_core.tensor_files import write_tensors
from sdxl_core.training_config import LoraConfig, LoraTargets
from sdxl_core.weight_files import lora_diffusers, lora_kohya
from sdxl_core.weight_files.lora import LoraFile, module_of
from sdxl_core.weight_files.metadata import kohya_identity, spec_identity
from sdxl_core.weight_files.original_names import UnetLayout

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
    trained = _trained(unet, lora.scaled_alpha)
    adapter = lora_diffusers.adapter_metadata(
        trained, lora_dropout=lora.dropout, target_modules=LORA_TARGETS[lora.targets]
    )
    metadata = {"format": "pt", lora_diffusers.ADAPTER_METADATA: adapter, **provenance}
    write_tensors(out / DIFFUSERS_FILE, lora_diffusers.write_pieces(trained), metadata)
    kohya_metadata = {**spec_identity(is_lora=True), **kohya_identity(lora.rank, lora.scaled_alpha), **provenance}
    kohya = lora_kohya.write_pieces(trained, UnetLayout.of(unet.config))
    write_tensors(out / KOHYA_FILE, kohya, kohya_metadata)


def _trained(unet: UNet2DConditionModel, alpha: float) -> LoraFile:
    pieces: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in get_peft_model_state_dict(unet, adapter_name=ADAPTER_NAME).items():
        module, kind = name.removesuffix(".weight").rsplit(".", 1)
        pieces[module][{"lora_A": "down", "lora_B": "up"}[kind]] = tensor.detach().float()
    return LoraFile({"unet": {name: module_of(found, alpha, name) for name, found in pieces.items()}})
