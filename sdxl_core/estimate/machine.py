"""This machine: its device, and how fast that multiplies."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil
import torch

from sdxl_core.config import Precision
from sdxl_core.runtime import DTYPES

SIDE = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True)
class Machine:
    """The device that a training would run on."""

    name: str
    memory_bytes: int
    device_type: str


def this_machine(device: torch.device) -> Machine:
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return Machine(found.name, found.total_memory, "cuda")
    return Machine("processor", psutil.virtual_memory().total, "cpu")


def matmul_flops_per_s(device: torch.device, precision: Precision) -> float:
    """Of a square product that keeps the device busy for a moment; the best of three."""
    side = SIDE[device.type]
    a = torch.randn(side, side, device=device, dtype=DTYPES[precision])
    best_s = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        product = a @ a
        float(product[0, 0])  # waits for the device
        best_s = min(best_s, time.perf_counter() - began)
    return 2 * side**3 / best_s
