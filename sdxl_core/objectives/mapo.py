"""Margin-aware preference optimization."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sdxl_core.batch import Batch
from sdxl_core.denoiser import Denoiser
from sdxl_core.objectives.base import LossOutput, Rows
from sdxl_core.objectives.pairs import OfPairs, PairErrors, implicit_accuracy
from sdxl_core.training_config.preference import MapoObjective

# B pairs; a batch holds 2 B rows


class Mapo(OfPairs[MapoObjective]):
    """L_w - beta log sigmoid(T (o(L_w) - o(L_l))), o(L) = s L / (exp(s L) - 1), of the errors L of a pair's pictures.

    Hong et al. 2024, arXiv:2406.06424, section 3, as in the authors' code; T timesteps. There is no reference.
    """

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput:
        error_2B = denoiser.error(batch)
        preferred_B, rejected_B = (denoiser.weight(batch) * error_2B).chunk(2)
        loss = self.pair_loss(preferred_B, rejected_B, denoiser.schedule.timesteps).mean()
        preferred_B, rejected_B = error_2B.detach().chunk(2)
        by_row = {"model_accuracy": implicit_accuracy(rejected_B - preferred_B)}
        figures = {
            "model_accuracy": by_row["model_accuracy"].mean(),
            "preferred/error": preferred_B.mean(),
            "rejected/error": rejected_B.mean(),
        }
        return LossOutput(loss, figures, Rows(batch.t_B.chunk(2)[0], preferred_B, by_row))

    def pair_loss(self, preferred_B: Tensor, rejected_B: Tensor, timesteps: int) -> Tensor:
        margin_B = self._likely(preferred_B) - self._likely(rejected_B)
        return preferred_B - self.config.beta * functional.logsigmoid(timesteps * margin_B)

    def held_out_loss(self, errors: PairErrors, timesteps: int) -> Tensor:
        return self.pair_loss(errors.preferred_B, errors.rejected_B, timesteps)

    def _likely(self, error_B: Tensor) -> Tensor:
        """o(L): 1 at no error, falling; expm1, as the difference from 1 is what counts."""
        scaled_B = (self.config.snr * error_B).clamp(min=torch.finfo(error_B.dtype).tiny)
        return scaled_B / torch.expm1(scaled_B)
