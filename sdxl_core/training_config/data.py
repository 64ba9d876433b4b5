"""What counts how much: `training.concepts`, `training.masked_loss`."""

from __future__ import annotations

from pydantic import model_validator

from sdxl_core.config import Config, Probability
from sdxl_core.training_config.numbers import NotNegative, Positive


class ConceptConfig(Config):
    """One concept of the dataset."""

    repeats: Positive = 1.0
    """How often its pictures are seen in an epoch; 1.5: once or twice, in turn."""
    loss_weight: NotNegative = 1.0
    """Factor of its rows' loss."""


class MaskedLossConfig(Config):
    """Loss inside the dataset's masks only (`dataset.masks`), or mostly."""

    unmasked_weight: Probability = 0.0
    """How much the outside counts: every element's loss is multiplied by mask + (1 - mask) unmasked_weight."""
    normalize: bool = False
    """Divide a row's loss by its mean weight, so that small masks count as much as large ones."""
    prior_weight: NotNegative = 0.0
    """Outside the masks, hold on to what the base itself predicts, so much. One more forward pass."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> MaskedLossConfig:
        if self.unmasked_weight == 1 and self.prior_weight == 0:
            raise ValueError(
                "unmasked_weight = 1 counts the outside as much as the inside, as if there were no masks: lower it, "
                "set prior_weight, or leave masked_loss out"
            )
        return self
