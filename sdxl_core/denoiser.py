"""The network that is trained, behind one question: how wrong is it on this batch?"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from sdxl_core.batch import Batch
from sdxl_core.errors import UserError
from sdxl_core.losses import row_error
from sdxl_core.masking import inside_weight, outside_weight
from sdxl_core.schedule import NoiseSchedule
from sdxl_core.training_config import TrainingConfig
from sdxl_core.weighting import timestep_weight

# B rows, C latent channels, H W latent size


class Denoiser:
    """Owns the parameterisation: nobody else asks whether the network predicts the noise or the velocity."""

    def __init__(self, unet: UNet2DConditionModel, schedule: NoiseSchedule, config: TrainingConfig) -> None:
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

    @torch.no_grad()
    def predict_base(self, batch: Batch) -> Tensor:
        """What the network predicts without its adapter, as `predict`.

        Raises:
            UserError: all weights are trained, so there is no base left.
        """
        if not getattr(self.unet, "peft_config", None):
            raise UserError(
                "training.adapter: the base's own prediction needs an adapter that can be taken off, got none; "
                "set training.adapter.kind=lora"
            )
        self.unet.disable_adapters()
        try:
            return self.predict(batch)
        finally:
            self.unet.enable_adapters()

    def error(self, batch: Batch) -> Tensor:
        """The configured loss of every row, mean over C, H, W, float32; where the batch has masks, as they weigh it.

        Neither the row's timestep nor its concept is weighed.
        """
        target_BCHW = self.schedule.target(batch.x_BCHW, batch.eps_BCHW, batch.t_B).float()
        masked = self.config.masked_loss
        if masked is None or batch.mask_B1HW is None:
            return self._row_error(self.predict(batch) - target_BCHW, batch)
        base_BCHW = self.predict_base(batch) if masked.prior_weight else None
        predicted_BCHW = self.predict(batch)
        error_B = self._row_error(predicted_BCHW - target_BCHW, batch, inside_weight(batch.mask_B1HW, masked))
        if base_BCHW is None:
            return error_B
        return error_B + self._row_error(predicted_BCHW - base_BCHW, batch, outside_weight(batch.mask_B1HW, masked))

    def weight(self, batch: Batch) -> Tensor:
        """How much every row counts, by its timestep and its concept."""
        snr_B = self.schedule.snr(batch.t_B)
        weight_B = timestep_weight(snr_B, self.schedule.prediction_type, self.config.weighting)
        return weight_B if batch.weight_B is None else weight_B * batch.weight_B

    def _row_error(self, difference_BCHW: Tensor, batch: Batch, weight_B1HW: Tensor | None = None) -> Tensor:
        return row_error(difference_BCHW, batch.t_B, self.schedule, self.config.loss, weight_B1HW)
