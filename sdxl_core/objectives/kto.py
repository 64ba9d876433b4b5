"""Diffusion-KTO."""

from __future__ import annotations

import torch
from torch import Tensor

from sdxl_core.batch import Batch
from sdxl_core.denoiser import Denoiser
from sdxl_core.objectives.base import LossOutput, Rows
from sdxl_core.objectives.pairs import OfPairs, PairErrors, implicit_accuracy
from sdxl_core.training_config.preference import KtoObjective

# B rows


class Kto(OfPairs[KtoObjective]):
    """w (1 - sigmoid(+-beta (g - z))), g being how much a row's error fell against the reference.

    Li et al. 2024, arXiv:2404.04465, equation 9; z is the mean g of the pass, not below 0 and without gradient, as in
    Ethayarajh et al. 2024, arXiv:2402.01306, equation 8. + for what is liked, - for what is not. w / 2 before the first
    step.
    """

    needs_whole_passes = (
        "objective.kind = kto compares the rows of a pass with their mean, so cannot take them in smaller passes; set "
        "training.gradient_checkpointing=true, or a smaller training.micro_batch_size (the run starts anew)"
    )

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput:
        assert batch.liked_B is not None, "the data of this method is labelled"
        reference_B = denoiser.reference_error(batch)
        error_B = denoiser.error(batch)
        fell_B = denoiser.weight(batch) * (reference_B - error_B)
        middle = fell_B.detach().mean().clamp(min=0)
        loss = self.row_loss(fell_B - middle, batch.liked_B).mean()
        by_row = {"implicit_accuracy": implicit_accuracy(_sign(batch.liked_B) * fell_B.detach())}
        figures = {
            "implicit_accuracy": by_row["implicit_accuracy"].mean(),
            "unweighted": error_B.detach().mean(),
            "unweighted/reference": reference_B.mean(),
        }
        return LossOutput(loss, figures, Rows(batch.t_B, error_B.detach(), by_row))

    def row_loss(self, advantage_B: Tensor, liked_B: Tensor) -> Tensor:
        config = self.config
        weight_B = torch.where(liked_B, config.liked_weight, config.disliked_weight)
        return weight_B * (1 - torch.sigmoid(_sign(liked_B) * config.beta * advantage_B))

    def held_out_loss(self, errors: PairErrors, timesteps: int) -> Tensor:
        """Of both pictures, with z = 0."""
        liked_B = torch.ones_like(errors.preferred_B, dtype=torch.bool)
        preferred_B = self.row_loss(errors.reference_preferred_B - errors.preferred_B, liked_B)
        rejected_B = self.row_loss(errors.reference_rejected_B - errors.rejected_B, ~liked_B)
        return 0.5 * (preferred_B + rejected_B)


def _sign(liked_B: Tensor) -> Tensor:
    return torch.where(liked_B, 1.0, -1.0)
