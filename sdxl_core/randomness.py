"""Counter-based randomness: every draw is a function of a seed and of what it is for.

Nothing here keeps state, so resuming a run, splitting its batches otherwise or spreading it over more processes does
not change what is drawn. Draws are made on the CPU, so they do not depend on the device either.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derived_seed(*parts: str | int) -> int:
    """A 56-bit seed that is a function of `parts`."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generator(*parts: str | int) -> torch.Generator:
    """A fresh CPU generator whose stream is a function of `parts`."""
    return torch.Generator("cpu").manual_seed(derived_seed(*parts))


def normal(shape: tuple[int, ...], *parts: str | int) -> Tensor:
    """Standard normal float32 numbers of `shape`, on the CPU."""
    return torch.randn(shape, generator=generator(*parts))


def integer(below: int, *parts: str | int) -> int:
    """A uniform integer in [0, below)."""
    if below == 1:  # most pictures have one variant and one caption; seeding costs more than all else of a draw
        return 0
    return int(torch.randint(below, (), generator=generator(*parts)))


def uniform(*parts: str | int) -> float:
    """A uniform number in [0, 1)."""
    return float(torch.rand((), generator=generator(*parts), dtype=torch.float64))


def permutation(size: int, *parts: str | int) -> list[int]:
    """A uniform order of 0 ... size - 1."""
    order: list[int] = torch.randperm(size, generator=generator(*parts)).tolist()
    return order
