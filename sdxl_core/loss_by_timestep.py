"""How wrong the network is at little, middle and much noise: the unweighted loss in bins of timesteps.

A step's own lines are exact and need no memory; whoever shows them takes means over as many steps as suits.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from sdxl_core.objectives import Rows

# B rows, K bins

BINS = 10
PREFIX = "timesteps/"


def bin_names(timesteps: int) -> list[str]:
    """`timesteps/000-099` and so on, equally wide but for rounding."""
    edges = [-(-k * timesteps // BINS) for k in range(BINS + 1)]
    return [f"{PREFIX}{low:03d}-{high - 1:03d}" for low, high in pairwise(edges)]


def bin_sums(rows: Rows | None, timesteps: int, device: torch.device) -> Tensor:
    """2 x K: sum of the rows' errors, and how many rows, in every bin."""
    if rows is None:
        return torch.zeros(2, BINS, device=device)
    bins_K = torch.arange(BINS, device=device)
    inside_KB = bins_K[:, None] == (rows.t_B * BINS // timesteps)[None]
    errors_K = torch.where(inside_KB, rows.error_B.float()[None], 0.0).sum(1)  # a row that is not finite spoils its own
    return torch.stack([errors_K, inside_KB.sum(1).float()])


def bin_means(sums_2K: Tensor, timesteps: int) -> dict[str, Tensor]:
    """Mean error by bin name; NaN where no row was."""
    return dict(zip(bin_names(timesteps), (sums_2K[0] / sums_2K[1]).unbind(), strict=True))
