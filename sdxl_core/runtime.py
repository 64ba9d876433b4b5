"""Devices and number formats."""

from __future__ import annotations

import os
from typing import Literal

import psutil
import torch

from sdxl_core.config import Precision
from sdxl_core.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BYTES_PER_PIXEL_AND_ROW = 3_500  # of a generated picture in flight; 3.5 GiB at 1024 x 1024, guidance included
MAX_BATCH = {"cuda": 16, "cpu": 8}


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU when there is one.

    Raises:
        UserError: `cuda` was asked for and torch sees none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device = cuda, but torch sees no CUDA device; use auto or cpu, or check the driver")
    return torch.device(name)


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


def free_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def batch_size_for(width_px: int, height_px: int, device: torch.device) -> int:
    """How many pictures to generate at once: as many as fit into 70 % of the free memory, within reason."""
    fitting = int(0.7 * free_memory_bytes(device) / (BYTES_PER_PIXEL_AND_ROW * width_px * height_px))
    return max(1, min(MAX_BATCH[device.type], fitting))
