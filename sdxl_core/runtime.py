"""Devices and number formats."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, TypeVar

import torch

from sdxl_core.config import Precision
from sdxl_core.errors import UserError

T = TypeVar("T")
DeviceName = Literal["auto", "cpu", "cuda"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU when there is one; `cuda:1` and `auto:1` are the second, which becomes this thread's default.

    Raises:
        UserError: `cuda` was asked for and torch sees none.
    """
    kind, _, number = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device = cuda, but torch sees no CUDA device; use auto or cpu, or check the driver")
    if kind == "cpu" or not number:
        return torch.device(kind)
    device = torch.device(kind, int(number))
    torch.cuda.set_device(device)  # CUDA graphs are recorded on the current device, wherever the tensors are
    return device


def refuse_foreign_launch() -> None:
    """Raises UserError where accelerate was told to divide the model its own way, which this trainer does not use."""
    for variable in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"):
        if os.environ.get(variable, "false").lower() in ("1", "true", "yes"):
            raise UserError.about(
                variable,
                expected="a launch that only starts processes",
                got=os.environ[variable],
                fix="Set training.shard_weights=true, which divides the model (as FSDP and DeepSpeed's ZeRO stage 3 "
                "do), and launch without a plugin",
            )


def use_deterministic_kernels() -> None:
    """From now on in this process; to be called before anything is computed on a GPU.

    torch's documentation ("Reproducibility") names both settings.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def choose_dtype(precision: Precision, device: torch.device, setting: str) -> torch.dtype:
    """Raises UserError where the device cannot compute in the `precision` that a setting asks for."""
    if precision == "fp16" and device.type == "cpu":
        raise UserError(f"{setting} = fp16 needs a GPU; expected fp32 or bf16 on a CPU")
    return DTYPES[precision]


def unless_out_of_memory(work: Callable[[], T]) -> T | None:
    """What `work` gives, or None where the device's memory did not suffice; what it held is free again then."""
    try:
        return work()
    except torch.OutOfMemoryError:
        pass  # the error holds on to tensors until here
    torch.cuda.empty_cache()
    return None
