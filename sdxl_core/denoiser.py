"""The network that is trained, behind one question: how wrong is it on this batch?"""

from __future__ import annotations

from torch import Tensor, nn

from sdxl_core.batch import Batch
from sdxl_core.losses import row_error
from sdxl_core.schedule import NoiseSchedule
from sdxl_core.training_config import TrainingConfig
from sdxl_core.weighting import timestep_weight

# B rows, C latent channels, H W latent size


class Denoiser:
    """Owns the parameterisation: nobody else asks whether the network predicts the noise or the velocity."""

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule, config: TrainingConfig) -> None:
        self.unet = unet
        self.schedule = schedule
        self.config = config

    def predict(self, batch: Batch) -> Tensor:
        """The network's prediction for the noised batch, float32, of the latents' shape."""
        noisy_BCHW = self.schedule.add_noise(batch.x_BCHW, batch.input_eps_BCHW, batch.t_B)
        condition = batch.conditioning
        added = {"text_embeds": condition.pooled_BP, "time_ids": condition.time_ids_B6}
        out: Tensor = self.unet(noisy_BCHW, batch.t_B, condition.text_BTE, added_cond_kwargs=added).sample
        return out.float()

    def error(self, batch: Batch) -> Tensor:
        """The configured loss of every row, mean over C, H, W, float32; its timestep not weighed."""
        target_BCHW = self.schedule.target(batch.x_BCHW, batch.eps_BCHW, batch.t_B)
        return row_error(self.predict(batch) - target_BCHW.float(), batch.t_B, self.schedule, self.config.loss)

    def weight(self, batch: Batch) -> Tensor:
        """How much every row's timestep counts."""
        snr_B = self.schedule.snr(batch.t_B)
        return timestep_weight(snr_B, self.schedule.prediction_type, self.config.weighting)
