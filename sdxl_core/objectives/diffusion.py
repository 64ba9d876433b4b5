"""The plain diffusion loss."""

from __future__ import annotations

from sdxl_core.batch import Batch
from sdxl_core.denoiser import Denoiser
from sdxl_core.objectives.base import LossOutput, Objective, Rows
from sdxl_core.training_config import DiffusionObjective


class Diffusion(Objective):
    """L_simple (Ho et al. 2020), every row weighted by its timestep."""

    def __init__(self, config: DiffusionObjective) -> None:
        self.config = config

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput:
        return diffusion_loss(denoiser, batch)


def diffusion_loss(denoiser: Denoiser, batch: Batch) -> LossOutput:
    error_B = denoiser.error(batch)
    loss = (denoiser.weight(batch) * error_B).mean()
    return LossOutput(loss, {"unweighted": error_B.detach().mean()}, Rows(batch.t_B, error_B.detach()))
