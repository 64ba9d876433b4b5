"""Names of layers as kohya's files have them: those of Stability's original UNet. Importing this imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

KOHYA_PARTS = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def kohya_stem(part: str, module: str, layers_per_block: int, up_block_types: Sequence[str] = ()) -> str:
    """What the names of a layer's tensors begin with; `module` is its name in diffusers' files."""
    original = original_module_name(module, layers_per_block, up_block_types) if part == "unet" else module
    return f"{KOHYA_PARTS[part]}_{original.replace('.', '_')}"


def original_module_name(module: str, layers_per_block: int, up_block_types: Sequence[str] = ()) -> str:
    """diffusers' UNet module name -> its name in Stability's original UNet, which kohya's files use.

    There, blocks are one list: each level's layers and then its resampler; a layer holds its ResNet as `.0` and its
    attention as `.1`. On the way up, a resampler is the last part of its level's last layer, so behind an attention
    if there is one: all of SDXL's are, and where `up_block_types` says so.
    """
    levels = layers_per_block + 1
    if module in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[module]
    if match := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", module):
        return f"input_blocks.{1 + int(match[1]) * levels + int(match[3])}.{_inside(match[2], match[4])}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", module):
        return f"input_blocks.{1 + int(match[1]) * levels + layers_per_block}.0.op"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", module):
        return f"output_blocks.{int(match[1]) * levels + int(match[3])}.{_inside(match[2], match[4])}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", module):
        level = int(match[1])
        attends = not up_block_types or up_block_types[level].startswith("CrossAttn")
        return f"output_blocks.{level * levels + layers_per_block}.{1 + attends}.conv"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", module):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{_inside(match[1], match[3]).split('.', 1)[1]}"
    raise ValueError(f"no place in the original UNet for {module}")


def _inside(kind: str, rest: str) -> str:
    if kind == "attentions":
        return f"1.{rest}"
    if rest not in _IN_RESNET:
        raise ValueError(f"no place in the original UNet for {rest} of a ResNet block")
    return f"0.{_IN_RESNET[rest]}"
