"""ImageReward's network (Xu et al. 2023, arXiv:2304.05977): BLIP, Li et al. 2022 (arXiv:2201.12086), and a linear head.

The original's checkpoint goes into transformers' own BLIP classes; its names are the measure of what is there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.errors import EvalError
from eval.tensors import read_tensors

if TYPE_CHECKING:
    import torch

# B pictures, T tokens of a prompt, P patches of a picture, C channels, H x W pixels, E width of the text part

IMAGE_SIDE_PX = 224
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's output over the authors' data; the package subtracts and divides by them."""
HEAD_WIDTH = 64
"""Of one attention head, in every size of BLIP's vision transformer."""
ORIGINAL_NAMES = (
    (r"^text\.", "blip.text_encoder."),
    (r"^head\.", "mlp.layers."),
    (r"^vision\.embeddings\.class_embedding$", "blip.visual_encoder.cls_token"),
    (r"^vision\.embeddings\.position_embedding$", "blip.visual_encoder.pos_embed"),
    (r"^vision\.embeddings\.patch_embedding\.", "blip.visual_encoder.patch_embed.proj."),
    (r"^vision\.post_layernorm\.", "blip.visual_encoder.norm."),
    (r"^vision\.encoder\.layers\.", "blip.visual_encoder.blocks."),
    (r"\.self_attn\.qkv\.", ".attn.qkv."),
    (r"\.self_attn\.projection\.", ".attn.proj."),
    (r"\.layer_norm([12])\.", r".norm\1."),
)
"""Names of the classes here -> names in ImageReward.pt, one rule after the other."""
UNUSED = re.compile(r"blip\.((vision|text)_proj\.(weight|bias)|text_encoder\.embeddings\.position_ids)")
"""BLIP's heads for contrastive learning, which the reward has no use for, and a plain count."""
TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
)


def load_image_reward(weights: Path, med_config: Path) -> torch.nn.ModuleDict:
    """The network, in float32.

    Args:
        weights: `ImageReward.pt`, or safetensors with the same names.
        med_config: the description of the text part that lies beside it.

    Raises:
        EvalError: they are not ImageReward's, or not each other's.
    """
    stored = read_tensors(weights)
    network = _network(stored, weights.name, med_config)
    wanted = network.state_dict()
    names = {_original_name(key): key for key in wanted}
    unknown = [name for name in stored if name not in names and not UNUSED.fullmatch(name)]
    wrong = [name for name, key in names.items() if name not in stored or stored[name].shape != wanted[key].shape]
    for problem, found in (("are missing or of another shape", wrong), ("are of no known use", unknown)):
        if found:
            raise EvalError(
                f"{weights.name}: not ImageReward's weights as {med_config.name} describes them: "
                f"{len(found)} tensors {problem}, first {min(found)!r}"
            )
    network.load_state_dict({key: stored[name] for name, key in names.items()}, assign=True)
    return network.eval()


def rewards_B(
    network: torch.nn.ModuleDict, pixels_BCHW: torch.Tensor, ids_BT: torch.Tensor, mask_BT: torch.Tensor
) -> torch.Tensor:
    """The head's output for the first token after it has seen picture and prompt, on the authors' scale."""
    patches = network["vision"](pixel_values=pixels_BCHW).last_hidden_state
    words = network["text"](input_ids=ids_BT, attention_mask=mask_BT, encoder_hidden_states=patches)
    head_B: torch.Tensor = network["head"](words.last_hidden_state[:, 0])[:, 0]
    return (head_B - MEAN) / STD


def _network(stored: dict[str, torch.Tensor], name: str, med_config: Path) -> torch.nn.ModuleDict:
    """At the sizes of the stored weights, and still without any."""
    import torch
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel
    from transformers.initialization import no_init_weights

    vision = BlipVisionConfig(**_vision_sizes(stored, name), image_size=IMAGE_SIDE_PX, layer_norm_eps=1e-6)
    # decoder: the layers have cross-attention. Called as an encoder, their self-attention sees all tokens
    text = BlipTextConfig(**_text_settings(med_config), encoder_hidden_size=vision.hidden_size, is_decoder=True)
    with no_init_weights():  # random numbers for all of them take ten seconds
        parts: dict[str, torch.nn.Module] = {
            "vision": BlipVisionModel(vision),
            "text": BlipTextModel(text, add_pooling_layer=False),
            "head": _head(text.hidden_size),
        }
    return torch.nn.ModuleDict(parts)


def _head(width: int) -> torch.nn.Module:
    """No activation lies between its layers; where the original drops out, nothing happens."""
    from torch.nn import Identity, Linear, Sequential

    return Sequential(
        Linear(width, 1024), Identity(), Linear(1024, 128), Identity(), Linear(128, 64), Identity(), Linear(64, 16),
        Linear(16, 1),
    )  # fmt: skip


def _vision_sizes(stored: dict[str, torch.Tensor], name: str) -> dict[str, Any]:
    try:
        width, _, patch_px, _ = stored["blip.visual_encoder.patch_embed.proj.weight"].shape
        inner, _ = stored["blip.visual_encoder.blocks.0.mlp.fc1.weight"].shape
    except (KeyError, ValueError) as problem:
        raise EvalError(
            f"{name}: not ImageReward's weights: {problem}. Expected the names of ImageReward.pt, such as "
            "'blip.visual_encoder.patch_embed.proj.weight'."
        ) from None
    blocks = {key.split(".")[3] for key in stored if key.startswith("blip.visual_encoder.blocks.")}
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": width // HEAD_WIDTH,
        "patch_size": patch_px,
    }


def _text_settings(med_config: Path) -> dict[str, Any]:
    try:
        described = json.loads(med_config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise EvalError(f"{med_config.name}: cannot be read ({type(problem).__name__})") from problem
    if missing := [field for field in TEXT_FIELDS if field not in described]:
        raise EvalError(f"{med_config.name}: no {missing[0]!r} in it; expected the med_config.json of ImageReward")
    return {field: described[field] for field in TEXT_FIELDS}


def _original_name(key: str) -> str:
    for pattern, name in ORIGINAL_NAMES:
        key = re.sub(pattern, name, key)
    return key
