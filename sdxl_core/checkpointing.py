"""Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174): for its backward pass, a block keeps its input alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def use_checkpointing(network: Any, every_blocks: int) -> None:
    """Have one out of so many of a UNet's blocks (ResNets and transformer blocks) or a text encoder's layers computed
    again, in the order in which they are computed."""
    if hasattr(network, "enable_gradient_checkpointing"):
        network.enable_gradient_checkpointing(_chosen(every_blocks))
    else:
        network.activation_checkpointing_enable(every_n_layers=every_blocks)


def _chosen(every_blocks: int) -> Callable[..., Any]:
    """What diffusers calls with a block and its arguments; a block's place is that of its first call."""
    places: dict[nn.Module, int] = {}

    def run(block: nn.Module, *arguments: Any) -> Any:
        place = places.setdefault(block, len(places))
        if place % every_blocks == 0:
            return checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)

    return run
