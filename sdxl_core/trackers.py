"""Where curves and pictures go while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from sdxl_core.errors import UserError
from sdxl_core.training_config import WandbConfig


class Tracker(Protocol):
    """Told of steps in their order; of those after a bundle once more, when a run goes on from it."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Validation pictures by what they are called: their prompt, and which of its pictures it is."""
        ...

    def close(self) -> None: ...


VALIDATION = "validation/"
"""Begins the names of what is not measured at every step."""


def shown_name(name: str) -> str:
    """`validation/...` has a section of its own; all else is of training."""
    return name if name.startswith(VALIDATION) else f"train/{name}"


class TensorBoard:
    """Event files; those of a run that goes on replace what was written after its bundle, the step `begin`."""

    def __init__(self, folder: Path, begin: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=begin + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(shown_name(name), value, step)

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        for place, (prompt, picture) in enumerate(pictures.items()):
            self.writer.add_image(f"validation/{place:02d} {prompt}", np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases. A run that goes on has the id that it had, so its curves go on too.

    Raises:
        UserError: the package is missing.
    """

    def __init__(self, config: WandbConfig, folder: Path, settings: dict[str, Any], run_id: str | None) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError("training.wandb needs the package wandb: install with pip install -e '.[wandb]'") from None
        folder.mkdir(parents=True, exist_ok=True)  # else wandb writes elsewhere, with no more than a warning
        self.image = wandb.Image
        self.run = wandb.init(
            project=config.project,
            entity=config.entity,
            dir=str(folder),
            config=settings,
            id=run_id,
            resume="allow" if run_id else None,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({shown_name(name): value for name, value in values.items()}, step=step)

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        shown = [self.image(picture, caption=prompt) for prompt, picture in pictures.items()]
        self.run.log({"validation/pictures": shown}, step=step)

    def close(self) -> None:
        self.run.finish()
