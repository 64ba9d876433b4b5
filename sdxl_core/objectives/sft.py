"""Supervised fine-tuning on what is preferred."""

from __future__ import annotations

from torch import Tensor

from sdxl_core.batch import Batch
from sdxl_core.denoiser import Denoiser
from sdxl_core.objectives.base import LossOutput
from sdxl_core.objectives.diffusion import diffusion_loss
from sdxl_core.objectives.pairs import OfPairs, PairErrors
from sdxl_core.training_config.preference import SftObjective


class Sft(OfPairs[SftObjective]):
    """The diffusion loss; what it learns from makes the difference."""

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput:
        return diffusion_loss(denoiser, batch)

    def held_out_loss(self, errors: PairErrors, timesteps: int) -> Tensor:
        return errors.preferred_B
