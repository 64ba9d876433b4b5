"""BLIP and ImageReward's head in plain torch, straight from a checkpoint with the original's names.

The picture goes through timm's vision transformer, of which BLIP's is a copy; the text part is written out (Vaswani et
al. 2017, section 3.2; Devlin et al. 2018; Li et al. 2022, figure 2: the image-grounded text encoder).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, softmax

from tests.eval.references import Case

MED = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 40,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
    "add_cross_attention": True,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
VIT = {"img_size": 224, "patch_size": 32, "embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 1.5}
HEAD_SIZES = (48, 1024, 128, 64, 16, 1)
HEAD_PLACES = (0, 2, 4, 6, 7)


def weights(folder: Path) -> dict[str, Path]:
    """One folder with everything, the weights as safetensors."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "med_config.json").write_text(json.dumps({**MED, "vocab_size": len(VOCABULARY) + 2}))
    save_file(original_state(), folder / "ImageReward.safetensors")
    return {"model": folder}


def original_state() -> dict[str, Tensor]:
    """Random numbers under the names of ImageReward.pt."""
    torch.manual_seed(0)
    state = {f"blip.visual_encoder.{name}": tensor for name, tensor in vision_transformer().state_dict().items()}
    shapes = {**text_shapes(MED["hidden_size"], VIT["embed_dim"]), **unused_shapes(MED["hidden_size"])}
    for place, inputs, outputs in zip(HEAD_PLACES, HEAD_SIZES, HEAD_SIZES[1:], strict=False):
        shapes |= {f"mlp.layers.{place}.weight": (outputs, inputs), f"mlp.layers.{place}.bias": (outputs,)}
    state |= {name: torch.empty(shape) for name, shape in shapes.items()}
    for name, tensor in state.items():
        fan_in = tensor[0].numel() if tensor.ndim > 1 and "embed" not in name else 1
        is_gain = name.endswith(("LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight"))
        state[name] = (torch.randn(tensor.shape) / fan_in**0.5) * (0.2 if tensor.ndim == 1 else 1.5) + float(is_gain)
    positions = torch.arange(MED["max_position_embeddings"])[None]
    return {**state, "blip.text_encoder.embeddings.position_ids": positions}


def text_shapes(width: int, seen_width: int) -> dict[str, tuple[int, ...]]:
    root, inner = "blip.text_encoder.", MED["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}embeddings.word_embeddings.weight": (len(VOCABULARY) + 2, width),
        f"{root}embeddings.position_embeddings.weight": (MED["max_position_embeddings"], width),
        f"{root}embeddings.LayerNorm.weight": (width,),
        f"{root}embeddings.LayerNorm.bias": (width,),
    }
    for number in range(MED["num_hidden_layers"]):
        layer = f"{root}encoder.layer.{number}."
        linears = {"intermediate.dense": (inner, width), "output.dense": (width, inner)}
        for attention, inputs in (("attention", width), ("crossattention", seen_width)):
            linears |= {
                f"{attention}.self.query": (width, width),
                f"{attention}.self.key": (width, inputs),
                f"{attention}.self.value": (width, inputs),
                f"{attention}.output.dense": (width, width),
            }
        for name, shape in linears.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        for name in ("attention.output", "crossattention.output", "output"):
            shapes |= {f"{layer}{name}.LayerNorm.{kind}": (width,) for kind in ("weight", "bias")}
    return shapes


def unused_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Of what the checkpoint has for no use."""
    weights = {"blip.vision_proj": (8, VIT["embed_dim"]), "blip.text_proj": (8, width)}
    return {f"{name}.weight": shape for name, shape in weights.items()} | {f"{name}.bias": (8,) for name in weights}


def vision_transformer() -> VisionTransformer:
    return VisionTransformer(**VIT, num_classes=0, global_pool="").eval()


def reference(case: Case) -> float:
    folder = case.weights["model"]
    state = {name: tensor.double() for name, tensor in load_file(folder / "ImageReward.safetensors").items()}
    return reward(state, case.pictures[0], case.prompt)


@torch.no_grad()
def reward(state: dict[str, Tensor], picture: np.ndarray, prompt: str) -> float:
    vision, root = vision_transformer().double(), "blip.visual_encoder."
    vision.load_state_dict({name.removeprefix(root): state[name] for name in state if name.startswith(root)})
    features = first_token(state, token_ids(prompt), vision(pixels_1CHW(picture))[0])
    for place in HEAD_PLACES:
        features = linear(features, state[f"mlp.layers.{place}.weight"], state[f"mlp.layers.{place}.bias"])
    return float((features - 0.16717362830052426) / 1.0333394966054072)


def token_ids(prompt: str) -> list[int]:
    """Every letter is a token here; 35 in all, with [CLS] before and [SEP] behind. No padding."""
    words = prompt.lower().split()
    pieces = [("##" if place else "") + letter for word in words for place, letter in enumerate(word)]
    return [VOCABULARY.index(piece) for piece in ["[CLS]", *pieces[:33], "[SEP]"]]


def pixels_1CHW(picture: np.ndarray) -> Tensor:
    image = Image.fromarray(picture)
    scale = 224 / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float64) / 255
    normal = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    return torch.tensor(normal).permute(2, 0, 1)[None]


def first_token(state: dict[str, Tensor], ids: list[int], patches_PW: Tensor) -> Tensor:
    """What BERT makes of [CLS] when every layer also looks at the patches."""

    def apply(name: str, x: Tensor) -> Tensor:
        return linear(x, state[f"blip.text_encoder.{name}.weight"], state[f"blip.text_encoder.{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        gain, shift = (state[f"blip.text_encoder.{name}.LayerNorm.{kind}"] for kind in ("weight", "bias"))
        return layer_norm(x, x.shape[-1:], gain, shift, 1e-12)

    def attend(name: str, x: Tensor, seen: Tensor) -> Tensor:
        query, key, value = (
            apply(f"{name}.self.{part}", of).unflatten(-1, (MED["num_attention_heads"], -1)).transpose(0, 1)
            for part, of in (("query", x), ("key", seen), ("value", seen))
        )
        weights = softmax(query @ key.transpose(1, 2) / query.shape[-1] ** 0.5, dim=-1)
        mixed = (weights @ value).transpose(0, 1).flatten(1)
        return norm(f"{name}.output", apply(f"{name}.output.dense", mixed) + x)

    table = "blip.text_encoder.embeddings."
    x = state[f"{table}word_embeddings.weight"][ids] + state[f"{table}position_embeddings.weight"][: len(ids)]
    x = norm("embeddings", x)
    for number in range(MED["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        x = attend(f"{layer}.attention", x, x)
        x = attend(f"{layer}.crossattention", x, patches_PW)
        inner = gelu(apply(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output", apply(f"{layer}.output.dense", inner) + x)
    return x[0]
