"""The networks of a training run, and the frozen base among them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from sdxl_core.text_encoders import NAMES, TextEncoders


@dataclass(frozen=True)
class Networks:
    """What a batch goes through."""

    unet: nn.Module
    text_encoders: TextEncoders | None = None
    """Unless captions were encoded before training."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks by their names in a checkpoint, which are those of what is trained, too."""
        encoders = self.text_encoders.both if self.text_encoders is not None else ()
        return {"unet": self.unet, **dict(zip(NAMES, encoders, strict=False))}


Base = Callable[[], AbstractContextManager[Networks]]
"""Inside, the networks are what they were before training."""
