"""LoHa and LoKr as LyCORIS' file, in kohya's layout: what ComfyUI and A1111 load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sdxl_core.adapter_start import KOHYA_FILE
from sdxl_core.adapters.peft_folder import adapter_state
from sdxl_core.export import conv_arguments, kohya_identity, unet_config
from sdxl_core.kohya_names import kohya_stem
from sdxl_core.model import COMPONENTS
from sdxl_core.peft_layers import ADAPTER_NAME, adapted_layers
from sdxl_core.tensor_files import write_tensors
from sdxl_core.training_config import Ranked


def write_lycoris_file(
    algorithm: str,
    config: Ranked,
    parts: Mapping[str, nn.Module],
    out: Path,
    provenance: Mapping[str, str],
    arguments: Mapping[str, str] | None = None,
) -> None:
    """Write the file of both networks' adapters into `out`; `arguments` are further ones of LyCORIS' algorithm."""
    unet = unet_config(parts)
    weights: dict[str, Tensor] = {}
    for part, module in parts.items():
        state = adapter_state(module)
        for name, layer in adapted_layers(module).items():
            stored = COMPONENTS[part].stored_name(name)
            stem = kohya_stem(part, stored, unet["layers_per_block"], unet["up_block_types"])
            own = {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}
            rank, alpha = layer.r[ADAPTER_NAME], layer.alpha[ADAPTER_NAME]
            weights |= {f"{stem}.{key}": tensor for key, tensor in _with_alpha(own, rank, alpha).items()}
    said = {"algo": algorithm, **conv_arguments(config), **(arguments or {})}
    identity = kohya_identity("lycoris.kohya", config.rank, config.scaled_alpha, said)
    write_tensors(out / KOHYA_FILE, weights, identity | dict(provenance))


def _with_alpha(own: Mapping[str, Tensor], rank: int, alpha: float) -> dict[str, Tensor]:
    """LyCORIS takes no notice of alpha where neither matrix of LoKr has a rank: its scale goes into the small one."""
    if "lokr_w1" in own and "lokr_w2" in own:
        return {**own, "lokr_w1": own["lokr_w1"] * (alpha / rank), "alpha": torch.tensor(float(rank))}
    return {**own, "alpha": torch.tensor(float(alpha))}
