"""LoRAs as matrices of low rank: adding several up, cutting one down, and finding one that stands for a difference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdxl_core.weight_files.architecture import Part
from sdxl_core.weight_files.lora import LoraFile, LoraModule
from sdxl_core.weight_files.streamed import Shape


@dataclass(frozen=True)
class Cut:
    """How far to cut: the fewest directions with a share `energy` of the squared norm, and at most `rank`."""

    rank: int | None = None
    energy: float | None = None

    def keep(self, singular: Tensor) -> int:
        """How many of the singular values, largest first; one at least."""
        keep = len(singular)
        if self.energy is not None:
            squares = singular.square()
            reached = squares.cumsum(0) >= self.energy * squares.sum()
            keep = int(reached.int().argmax()) + 1 if bool(reached.any()) else keep
        return max(1, min(keep, self.rank or keep))


@dataclass(frozen=True)
class Retained:
    """Squared Frobenius norms, before and after."""

    kept: float
    total: float

    @property
    def share(self) -> float:
        """1 where there was nothing to keep."""
        return self.kept / self.total if self.total > 0 else 1.0

    @classmethod
    def sum(cls, parts: Sequence[Retained]) -> Retained:
        return cls(sum(part.kept for part in parts), sum(part.total for part in parts))


def added_up(loras: Sequence[tuple[LoraFile, float]]) -> LoraFile:
    """One LoRA that does what all of them do at their weights: exact, as ranks are laid side by side.

    Scales go into the ups, so every alpha is the rank. Magnitudes (DoRA) must have been refused before.
    """
    found: dict[Part, dict[str, list[tuple[LoraModule, float]]]] = defaultdict(lambda: defaultdict(list))
    for lora, weight in loras:
        for part, name, module in lora:
            found[part][name].append((module, weight))
    return LoraFile(
        {part: {name: _side_by_side(some) for name, some in named.items()} for part, named in found.items()}
    )


def _side_by_side(modules: Sequence[tuple[LoraModule, float]]) -> LoraModule:
    down = torch.cat([module.down.float() for module, _ in modules])
    up = torch.cat([(weight * module.scale) * module.up.float() for module, weight in modules], dim=1)
    return LoraModule(down, up, float(down.shape[0]))


def resized(module: LoraModule, cut: Cut) -> tuple[LoraModule, Retained]:
    """The nearest LoRA of a lower rank (Eckart and Young 1936), without the product of up and down.

    With up = Qu Ru and down^T = Qd Rd (QR), the singular values of up down are those of Ru Rd^T, which is rank by rank.
    """
    up, down = module.matrices()
    q_up, r_up = torch.linalg.qr(module.scale * up)
    q_down, r_down = torch.linalg.qr(down.T)
    left, singular, right = torch.linalg.svd(r_up @ r_down.T)
    return _module(q_up @ left, singular, right @ q_down.T, module.weight_shape, cut)


def nearest(difference: Tensor, cut: Cut) -> tuple[LoraModule, Retained]:
    """The LoRA nearest to a difference of weights (out, in, ...) (Eckart and Young 1936).

    The singular vectors of the shorter side are the eigenvectors of its Gram matrix: in float64, to float32's accuracy,
    and many times faster than an SVD of a wide weight.
    """
    matrix = difference.double().flatten(1)
    is_tall = matrix.shape[0] > matrix.shape[1]
    tall = matrix if is_tall else matrix.T
    values, vectors = torch.linalg.eigh(tall.T @ tall)  # in ascending order
    singular, short = values.flip(0).clamp(min=0).sqrt(), vectors.flip(1)
    long = (tall @ short) / singular.clamp(min=max(1e-10 * float(singular[0]), 1e-300))
    left, right = (long, short.T) if is_tall else (short, long.T)
    return _module(left, singular, right, tuple(difference.shape), cut)


def _module(left: Tensor, singular: Tensor, right: Tensor, shape: Shape, cut: Cut) -> tuple[LoraModule, Retained]:
    """The root of every singular value on either side, so that both fit half precision; alpha is the rank."""
    keep = cut.keep(singular)
    squares = singular.square()
    root = singular[:keep].sqrt()
    up = (left[:, :keep] * root).reshape(shape[0], keep, *[1] * (len(shape) - 2))
    down = (root[:, None] * right[:keep]).reshape(keep, *shape[1:])
    retained = Retained(float(squares[:keep].sum()), float(squares.sum()))
    return LoraModule(down.float().cpu().contiguous(), up.float().cpu().contiguous(), float(keep)), retained
