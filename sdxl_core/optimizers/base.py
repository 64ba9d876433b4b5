"""What the trainer knows of an optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn

Group = dict[str, Any]
"""Parameters of one part, and their settings: `params`, `part`, `lr`, `weight_decay`."""


class OptimizerKind(ABC):
    """One kind of optimizer: how it is made, and what of it the run has to keep, log and use."""

    library: ClassVar[str] = "torch"
    """The distribution whose version its numbers depend on."""
    progress: ClassVar[tuple[str, ...]] = ()
    """What its steps change in parameter groups; it comes from the bundle, all else from the configuration."""
    averages: ClassVar[bool] = False
    """Whether what is to be used are other numbers than those that are trained."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        """The optimizer of these parameters, ready to step."""

    @abstractmethod
    def state_bytes(self, parameter: nn.Parameter) -> int:
        """What it keeps of a trained tensor, in float32 but where it says so; counters not counted."""

    def figures(self, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """What is worth a curve, by name."""
        return {}

    def averaged(self, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Inside, the parameters are those to be used; afterwards the trained ones again, to the last bit."""
        return nullcontext()
