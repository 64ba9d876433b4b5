"""The network that is trained, behind one question: how wrong is it on this batch?"""

from __future__ import annotations

from torch import Tensor, nn

from sdxl_core.batch import Batch
from sdxl_core.schedule import NoiseSchedule

# B rows, C latent channels, H W latent size


class Denoiser:
    """Owns the parameterisation: nobody else asks whether the network predicts the noise or the velocity."""

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule) -> None:
        self.unet = unet
        self.schedule = schedule

    @property
    def prediction_type(self) -> str:
        return self.schedule.prediction_type

    def predict(self, batch: Batch) -> Tensor:
        """The network's prediction for the noised batch, float32, of the latents' shape."""
        noisy_BCHW = self.schedule.add_noise(batch.x_BCHW, batch.eps_BCHW, batch.t_B)
        condition = batch.conditioning
        added = {"text_embeds": condition.pooled_BP, "time_ids": condition.time_ids_B6}
        out: Tensor = self.unet(noisy_BCHW, batch.t_B, condition.text_BTE, added_cond_kwargs=added).sample
        return out.float()

    def error(self, batch: Batch) -> Tensor:
        """Mean squared error of every row over C, H, W, float32."""
        target_BCHW = self.schedule.target(batch.x_BCHW, batch.eps_BCHW, batch.t_B)
        return (self.predict(batch) - target_BCHW.float()).square().mean(dim=(1, 2, 3))

    def snr(self, batch: Batch) -> Tensor:
        return self.schedule.snr(batch.t_B)
