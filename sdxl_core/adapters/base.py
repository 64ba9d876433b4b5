"""What the trainer knows of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn


class Adapter(Protocol):
    """A way to change a UNet by training."""

    def __init__(self, config: Any) -> None: ...

    def attach(self, unet: UNet2DConditionModel, seed: int) -> dict[str, nn.Parameter]:
        """Make a frozen UNet trainable; returns what is trained, float32, by name.

        Initial weights are a function of `seed` alone.
        """
        ...

    def export(self, unet: UNet2DConditionModel, out: Path, provenance: Mapping[str, str]) -> None:
        """Write what was trained into the folder `out`, in the files that other programs load.

        `provenance` (digests, versions) goes into their headers.
        """
        ...

    @staticmethod
    def load(pipeline: StableDiffusionXLPipeline, trained: Path) -> None:
        """Put what `export` wrote into a pipeline of the base."""
        ...
