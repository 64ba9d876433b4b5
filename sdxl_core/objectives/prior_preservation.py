"""DreamBooth's loss."""

from __future__ import annotations

from sdxl_core.batch import Batch
from sdxl_core.denoiser import Denoiser
from sdxl_core.objectives.base import LossOutput, Rows
from sdxl_core.training_config import PriorPreservationObjective


class PriorPreservation:
    """Instance loss plus weighted class loss (Ruiz et al. 2022, arXiv:2208.12242, eq. 2).

    The batch's first half are instance pictures, its second half class pictures; each row is weighted by its own
    timestep, in both halves.
    """

    uses_class_images = True

    def __init__(self, config: PriorPreservationObjective) -> None:
        self.config = config

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput:
        error_B = denoiser.error(batch)
        instance_B, prior_B = (denoiser.weight(batch) * error_B).chunk(2)
        instance_error_B, prior_error_B = error_B.detach().chunk(2)
        loss = instance_B.mean() + self.config.prior_weight * prior_B.mean()
        scalars = {"unweighted": instance_error_B.mean(), "unweighted/prior": prior_error_B.mean()}
        return LossOutput(loss, scalars, Rows(batch.t_B.chunk(2)[0], instance_error_B))
