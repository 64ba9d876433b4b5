"""Which layers of a network an adapter is on, and of what rank. Importing this imports no torch.

Layers go by the names that files have: diffusers' in the UNet (`down_blocks.1...`), and in a text encoder
`text_encoder.text_model.encoder.layers.0...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sdxl_core.errors import UserError, did_you_mean
from sdxl_core.training_config import Ranked, Targeted
from sdxl_core.training_config.adapters import REGEX
from sdxl_core.unet_shapes import Shape

UNET_ENDS: dict[str, list[str]] = {
    "attention": ["to_k", "to_q", "to_v", "to_out.0"],
    "attention+feed-forward": ["to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"],
    "all-linear": ["to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"],
}
TEXT_ENDS: dict[str, list[str]] = {
    "attention": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "attention+feed-forward": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "all-linear": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
CONVOLUTION_ENDS = ["conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"]


@dataclass(frozen=True)
class Target:
    """A layer's adapter."""

    rank: int
    alpha: float


def target_ends(part: str, targets: str) -> list[str]:
    """Ends of the names of the layers that a preset means."""
    return (UNET_ENDS if part == "unet" else TEXT_ENDS)[targets]


def ends_with(name: str, ends: list[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def layer_shapes(tensors: Mapping[str, Shape]) -> dict[str, Shape]:
    """Name -> shape of the linear layers and convolutions among a network's tensors, embeddings left out."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in tensors.items()
        if name.endswith(".weight") and len(shape) in (2, 4) and "embedding.weight" not in name
    }


def resolve_targets(part: str, config: Targeted, layers: Mapping[str, Shape]) -> dict[str, Target]:
    """The layers of one network that `config` adapts; `layers` are all it has, with the shapes of their weights.

    Raises:
        UserError: the targets or the blocks match nothing, or a layer that this kind of adapter cannot be on.
    """
    chosen = _chosen(part, config, layers)
    blocks = config.block_ranks if isinstance(config, Ranked) else {}
    _refuse_unknown_blocks(part, blocks, chosen)
    out = {}
    for name in chosen:
        at = max((block for block in blocks if _begins(part, name, block)), key=len, default=None)
        rank, alpha = config.rank_at(None if at is None else blocks[at], convolution=len(layers[name]) == 4)
        if rank > 0 and (reason := config.unfit(layers[name], rank)):
            raise UserError(
                f"training.adapter: {qualified(part, name)} of shape {layers[name]} cannot be adapted: {reason}"
            )
        if rank > 0:
            out[name] = Target(rank, alpha)
    if not out:
        raise UserError(f"training.adapter.block_ranks: all ranks of {part} are 0, so nothing of it would be trained")
    return out


def _chosen(part: str, config: Targeted, layers: Mapping[str, Shape]) -> list[str]:
    if not config.targets.startswith(REGEX):
        ends = target_ends(part, config.targets)
        chosen = [name for name, shape in layers.items() if len(shape) == 2 and ends_with(name, ends)]
        if isinstance(config, Ranked) and config.conv_rank is not None:
            chosen += [name for name, shape in layers.items() if len(shape) == 4 and ends_with(name, CONVOLUTION_ENDS)]
    else:
        chosen = _matching(part, config.targets.removeprefix(REGEX).strip(), layers)
    if not chosen:
        raise UserError(f"training.adapter.targets: {part} has no layer that {config.targets!r} names")
    return chosen


def _matching(part: str, pattern: str, layers: Mapping[str, Shape]) -> list[str]:
    chosen = [name for name in layers if re.fullmatch(pattern, qualified(part, name))]
    if not chosen:
        names = [qualified(part, name) for name in layers]
        near = did_you_mean(pattern.replace("\\", ""), names) or f"There are {', '.join(names[:3])} and more"
        raise UserError.about(
            "training.adapter.targets",
            expected=f"a pattern that matches the whole name of a layer of {part}",
            got=f"{pattern!r}, which matches none",
            fix=near,
        )
    return chosen


def qualified(part: str, name: str) -> str:
    """A layer's name among those of all networks; that of the UNet's own stands without a network before it."""
    return name if part == "unet" else f"{part}.{name}"


def _begins(part: str, name: str, block: str) -> bool:
    return f"{qualified(part, name)}.".startswith(f"{block}.")


def _refuse_unknown_blocks(part: str, blocks: Mapping[str, int], chosen: list[str]) -> None:
    for block in blocks:
        other = block.split(".")[0]
        if (other if other.startswith("text_encoder") else "unet") != part:
            continue
        if not any(_begins(part, name, block) for name in chosen):
            known = sorted({beginning for name in chosen for beginning in _beginnings(qualified(part, name))})
            raise UserError.about(
                "training.adapter.block_ranks",
                expected=f"the beginning of an adapted layer's name in {part}",
                got=repr(block),
                fix=did_you_mean(block, known) or f"Adapted are layers in {', '.join(known[:8])}",
            )


def _beginnings(name: str) -> Iterator[str]:
    words = name.split(".")
    return (".".join(words[:n]) for n in range(1, len(words) + 1))
