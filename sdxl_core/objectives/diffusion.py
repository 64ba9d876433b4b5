"""The plain diffusion loss."""

from __future__ import annotations

from sdxl_core.batch import Batch
from sdxl_core.config import DiffusionObjective
from sdxl_core.denoiser import Denoiser
from sdxl_core.objectives.base import LossOutput
from sdxl_core.objectives.weighting import timestep_weight


class Diffusion:
    """L_simple (Ho et al. 2020), every row weighted by its timestep."""

    uses_class_images = False

    def __init__(self, config: DiffusionObjective) -> None:
        self.config = config

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput:
        error_B = denoiser.error(batch)
        weight_B = timestep_weight(denoiser.snr(batch), denoiser.prediction_type, self.config.min_snr_gamma)
        return LossOutput((weight_B * error_B).mean(), {"mse": error_B.detach().mean()})
