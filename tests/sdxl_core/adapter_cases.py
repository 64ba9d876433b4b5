"""Every kind of adapter at toy size, and what is asked of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import TypeAdapter
from torch import Tensor, nn

from sdxl_core.adapters import ADAPTERS, Adapter
from sdxl_core.model import load_text_encoders, load_unet
from sdxl_core.training_config import Adapter as AdapterConfig

CASES: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 3, "alpha": 12, "targets": "all-linear"},
    "lora-kaiming": {"kind": "lora", "rank": 2, "init": "kaiming"},
    "lora-conv-blocks": {
        "kind": "lora",
        "rank": 3,
        "alpha": 6,
        "conv_rank": 2,
        "conv_alpha": 1,
        "block_ranks": {"mid_block": 5, "up_blocks.1": 0, "down_blocks.0.resnets": 4, "text_encoder": 2},
    },
    "rslora": {"kind": "lora", "rank": 4, "alpha": 3, "use_rslora": True, "block_ranks": {"mid_block": 9}},
    "dora": {"kind": "lora", "rank": 3, "alpha": 6, "use_dora": True, "conv_rank": 2},
    "pissa": {"kind": "lora", "rank": 4, "alpha": 8, "init": "pissa", "block_ranks": {"mid_block": 2}},
    "olora": {"kind": "lora", "rank": 4, "alpha": 2, "init": "olora"},
    "loha": {"kind": "loha", "rank": 2, "alpha": 3, "conv_rank": 3, "block_ranks": {"mid_block": 4}},
    "lokr": {"kind": "lokr", "rank": 2, "alpha": 3, "conv_rank": 2},
    "lokr-factors": {"kind": "lokr", "rank": 2, "alpha": 3, "factor": 16, "decompose_both": True, "conv_rank": 1},
    "lokr-whole": {"kind": "lokr", "rank": 64, "alpha": 16, "conv_rank": 64},
    "oft": {"kind": "oft", "block_size": 8, "targets": "attention+feed-forward"},
}
Formula = Callable[[Tensor, Mapping[str, Tensor], float], Tensor]


def configured(case: str, **changed: Any) -> Any:
    return TypeAdapter[Any](AdapterConfig).validate_python(CASES[case] | changed)


def build(case: str, **changed: Any) -> Adapter:
    config = configured(case, **changed)
    return ADAPTERS[config.kind](config)


@cache
def _read(model: Path) -> dict[str, nn.Module]:
    found = {"unet": load_unet(model), **load_text_encoders(model, torch.float32)}
    return {part: module.requires_grad_(False).eval() for part, module in found.items()}


def networks(model: Path) -> dict[str, nn.Module]:
    """The base's three networks, frozen: copies, as reading them takes longer."""
    return deepcopy(_read(model))


def attached(case: str, model: Path, seed: int = 0, **changed: Any) -> tuple[Adapter, dict[str, nn.Module]]:
    adapter, found = build(case, **changed), networks(model)
    for part, module in found.items():
        adapter.attach(part, module, seed)
    return adapter, found


def train_for_a_moment(module: nn.Module, far: float = 0.1) -> None:
    """Move every trained weight somewhere."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.requires_grad:
                p.add_(far * torch.randn(p.shape, generator=generator) * (p.abs().mean() if "magnitude" in name else 1))


@torch.no_grad()
def output(part: str, module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a network says to always the same input."""
    generator = torch.Generator().manual_seed(5)
    if part != "unet":
        ids = torch.randint(1, 90, (2, 77), generator=generator)
        out: Any = module(ids, output_hidden_states=True)
        return torch.cat([out.hidden_states[-2].flatten(), out[0].flatten()])
    width = module.config.cross_attention_dim  # type: ignore[union-attr]
    sample, text = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, width, generator=generator)
    added = {"text_embeds": torch.randn(2, width // 2, generator=generator), "time_ids": torch.full((2, 6), 64.0)}
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        result: Tensor = module(sample, torch.tensor([500, 20]), text, added_cond_kwargs=added).sample
    return result.float()


def layers(module: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}


# The definitions, written down without peft. Each takes a layer's base weight, its trained tensors, and the scale.


def flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


def lora(base: Tensor, t: Mapping[str, Tensor], scale: float) -> Tensor:
    return base + scale * (flat(t["lora_B"]) @ flat(t["lora_A"])).reshape(base.shape)


def dora(base: Tensor, t: Mapping[str, Tensor], scale: float) -> Tensor:
    """m (W + s B A) / |W + s B A|, the norm of every output's weights (arXiv:2402.09353, equation 5)."""
    directed = lora(base, t, scale)
    magnitude = t["lora_magnitude_vector"].reshape(-1, *[1] * (base.dim() - 1))
    return magnitude * directed / flat(directed).norm(dim=1).reshape(magnitude.shape)


def from_base(base: Tensor, t: Mapping[str, Tensor], scale: float) -> Tensor:
    """The papers' own way: W - s B0 A0, and s B A on it."""
    residual = base - scale * t["initial_factors.B"] @ t["initial_factors.A"]
    return residual + scale * t["lora_B"] @ t["lora_A"]


def loha(base: Tensor, t: Mapping[str, Tensor], scale: float) -> Tensor:
    product = (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
    return base + scale * product.reshape(base.shape)


def lokr(base: Tensor, t: Mapping[str, Tensor], scale: float) -> Tensor:
    """Blocks of w2, each times an entry of w1; a convolution's kernel belongs to w2."""
    w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    w2 = flat(t["lokr_w2"]) if "lokr_w2" in t else t["lokr_w2_a"] @ t["lokr_w2_b"]
    rows = [torch.cat([w1[i, j] * w2 for j in range(w1.shape[1])], dim=1) for i in range(w1.shape[0])]
    return base + scale * torch.cat(rows).reshape(base.shape)


def oft(base: Tensor, t: Mapping[str, Tensor], scale: float) -> Tensor:
    """W R' with R = (I - Q) (I + Q)^-1 in blocks; Q is skew-symmetric, its upper triangle is what is trained."""
    blocks, size = len(t["oft_R"]), base.shape[1] // len(t["oft_R"])
    turned = base.clone()
    for b in range(blocks):
        Q = torch.zeros(size, size)
        Q[tuple(torch.triu_indices(size, size, 1))] = t["oft_R"][b]
        Q = Q - Q.T
        R = (torch.eye(size) - Q) @ torch.linalg.inv(torch.eye(size) + Q)
        turned[:, b * size : (b + 1) * size] = base[:, b * size : (b + 1) * size] @ R.T
    return turned


FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("lora", "lora-kaiming", "lora-conv-blocks", "rslora"), lora),
    "dora": dora,
    **dict.fromkeys(("pissa", "olora"), from_base),
    "loha": loha,
    **dict.fromkeys(("lokr", "lokr-factors", "lokr-whole"), lokr),
    "oft": oft,
}


def trained_tensors(layer: Any) -> dict[str, Tensor]:
    """A layer's adapter, by the names that the definitions use."""
    found = {name: p for name, p in layer.named_parameters() if not name.startswith("base_layer")}
    found |= {name: b for name, b in layer.named_buffers() if name.startswith("initial_factors")}
    return {name.replace(".default", "").removesuffix(".weight"): tensor.detach() for name, tensor in found.items()}
