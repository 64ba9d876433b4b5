"""DreamBooth's loss."""

from __future__ import annotations

from sdxl_core.batch import Batch
from sdxl_core.config import PriorPreservationObjective
from sdxl_core.denoiser import Denoiser
from sdxl_core.objectives.base import LossOutput
from sdxl_core.objectives.weighting import timestep_weight


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
        weight_B = timestep_weight(denoiser.snr(batch), denoiser.prediction_type, self.config.min_snr_gamma)
        instance_B, prior_B = (weight_B * error_B).chunk(2)
        instance_error_B, prior_error_B = error_B.detach().chunk(2)
        loss = instance_B.mean() + self.config.prior_weight * prior_B.mean()
        return LossOutput(loss, {"mse": instance_error_B.mean(), "mse/prior": prior_error_B.mean()})
