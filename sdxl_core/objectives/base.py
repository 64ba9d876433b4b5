"""What the training loop knows of an objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from sdxl_core.batch import Batch
from sdxl_core.denoiser import Denoiser


@dataclass(frozen=True)
class Rows:
    """The rows of a batch that say how well the data is learned, detached."""

    t_B: Tensor
    error_B: Tensor
    """Not weighed by timestep."""


@dataclass(frozen=True)
class LossOutput:
    loss: Tensor
    """A scalar to differentiate."""
    scalars: dict[str, Tensor] = field(default_factory=dict)
    """Detached figures to log."""
    rows: Rows | None = None
    """What the loss by timestep is made of; None where a method has no such rows."""
    ratios: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """More of them, as sums and how many were added: of rows that not every pass has. Logged as the step's mean, and
    as `<name>/rows`."""


class Objective(Protocol):
    """A training method, as a value: calls the denoiser on a batch and says what to minimise."""

    uses_class_images: bool
    """Batches are then instance rows followed by as many class rows."""
    class_prompt: str | None
    """Batches are then instance rows followed by the same rows with this caption."""
    uses_base: bool
    """It asks the denoiser what the base model predicts."""

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput: ...
