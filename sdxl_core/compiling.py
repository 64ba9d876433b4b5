"""torch.compile of the UNet, `training.compile`: operations between the products become few, and read memory once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import nn

from sdxl_core.errors import UserError
from sdxl_core.networks import BLOCKS
from sdxl_core.training_config import Compile, TrainingConfig

BACKEND = "inductor"
MOST_SIZES = 16
"""Different sizes of latents in a run; each is compiled by itself, in minutes for SDXL."""
GRAPHS_PER_SIZE = 64
"""Of one class of blocks: widths, with and without gradients, with and without the adapter, lengths of captions."""


def compile_for_training(unet: nn.Module, compile: Compile, deterministic: bool) -> None:
    """Have the UNet, or each of its blocks, compiled when it first sees a size of latents.

    What cannot be one graph ends the run, and so does a block that would be compiled without end: nothing is computed
    the slow way unsaid. To be called before anything else takes the place of `forward`, as autocast does.
    """
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    dynamo.recompile_limit = GRAPHS_PER_SIZE * MOST_SIZES
    dynamo.accumulated_recompile_limit = len(BLOCKS) * GRAPHS_PER_SIZE * MOST_SIZES
    dynamo.fail_on_recompile_limit_hit = True
    inductor.deterministic = deterministic
    chosen: list[nn.Module] = (
        [unet] if compile == "unet" else [module for module in unet.modules() if isinstance(module, BLOCKS)]
    )
    kinds: set[Any] = set(map(type, chosen))
    compiled = {kind: torch.compile(kind.forward, backend=BACKEND, fullgraph=True, dynamic=False) for kind in kinds}
    for module in chosen:
        # bound, so that a copy of the network computes with the copy's weights
        module.forward = MethodType(compiled[type(module)], module)


def uncompiled() -> AbstractContextManager[None]:
    """Inside, nothing is compiled or runs compiled: pictures and held-out rows have sizes of their own."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def require_compiler(config: TrainingConfig, device: torch.device) -> None:
    """Raises UserError where `training.compile` needs what is not installed."""
    if config.compile == "none":
        return
    if device.type == "cuda":
        missing = None if find_spec("triton") else "the package triton"
    else:
        missing = None if shutil.which(os.environ.get("CXX", "g++")) else "a C++ compiler (g++, or what CXX names)"
    if missing is not None:
        raise UserError(
            f"training.compile = {config.compile} needs {missing} for {device.type}: install it, or set "
            "training.compile=none"
        )


def refuse_many_sizes(config: TrainingConfig, sizes: Collection[str]) -> None:
    """Raises UserError where a run would compile for more sizes of pictures than is reasonable."""
    different = len(set(sizes))
    if config.compile != "none" and different > MOST_SIZES:
        raise UserError.about(
            "training.compile",
            expected=f"at most {MOST_SIZES} sizes of pictures, as each is compiled by itself",
            got=f"{different}",
            fix="Make fewer of them with transform.buckets, or set training.compile=none",
        )
