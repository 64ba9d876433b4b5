"""Networks whose weights, gradients and moments are divided among the processes of a run (FSDP2, `fully_shard`).

Each process holds a share of every tensor; a block's weights are whole only while it computes (Zhao et al. 2023,
arXiv:2304.11277; Rajbhandari et al. 2020, arXiv:1910.02054, stage 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sdxl_core.networks import BLOCKS


def shard(module: nn.Module, device: torch.device) -> dict[str, nn.Parameter]:
    """Divide a network on `device` among all processes; returns its parameters, which are others than before, by name.

    Gradients are means over the processes from then on. Every process has to take every forward and backward pass.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in _units(module):
        fully_shard(unit, mesh=mesh)
    # by default the outermost weights stay whole after a pass without gradients, and later ones would not be seen
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return dict(module.named_parameters())


def whole_at_once_bytes(module: nn.Module) -> int:
    """Weights of a divided network that a process has whole at a time: what is in no unit, the unit that computes, and
    the next, which is being fetched."""
    sizes = sorted(sum(p.nbytes for p in unit.parameters()) for unit in _units(module))
    return sum(p.nbytes for p in module.parameters()) - sum(sizes) + sum(sizes[-2:])


def _units(module: nn.Module) -> list[nn.Module]:
    """What is made whole one at a time; all else is whole during a whole pass."""
    return [unit for unit in module.modules() if isinstance(unit, BLOCKS)]


def whole(value: Any) -> Any:
    """Tensors, in mappings and lists too, with the shares of all processes put together, in CPU memory.

    All processes have to call it with the same; what is not divided stays as it is.
    """
    if isinstance(value, DTensor):
        together: Tensor = value.full_tensor()
        return together.detach().cpu()
    if isinstance(value, Mapping):
        return {key: whole(entry) for key, entry in value.items()}
    return [whole(entry) for entry in value] if isinstance(value, list | tuple) else value


def divided_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole `value`, divided as `like` is; as it is, where `like` is whole."""
    if not isinstance(like, DTensor):
        return value
    on_device = value.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)


def put_together(share: Tensor, like: Tensor) -> Tensor:
    """The tensor of which each process has a `share`, as `like` is divided; `share` itself, where `like` is whole."""
    if not isinstance(like, DTensor):
        return share
    return DTensor.from_local(
        share.to(like.device), like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )


def share_of(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter; it changes when the parameter does."""
    held = parameter.detach()
    return held.to_local() if isinstance(held, DTensor) else held
