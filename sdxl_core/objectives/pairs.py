"""What methods that learn from pairs have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sdxl_core.batch import Batch
from sdxl_core.denoiser import Denoiser
from sdxl_core.objectives.base import LossOutput, Objective, Rows
from sdxl_core.training_config.preference import PairObjective, PreferenceObjective

C = TypeVar("C", bound=PreferenceObjective)

# B pairs; a batch holds 2 B rows


@dataclass(frozen=True)
class PairErrors:
    """Errors of a pair's two pictures, each a mean over C, H, W, float32: of the model, and of its reference."""

    preferred_B: Tensor
    rejected_B: Tensor
    reference_preferred_B: Tensor
    reference_rejected_B: Tensor

    @property
    def gain_B(self) -> Tensor:
        """How much more than the rejected picture's error the preferred one's fell, against the reference, halved.

        What Diffusion-DPO multiplies by beta (Wallace et al. 2023, equation 14, with T omega = 1 / 2 as in the authors'
        code).
        """
        preferred_B = self.reference_preferred_B - self.preferred_B
        return 0.5 * (preferred_B - (self.reference_rejected_B - self.rejected_B))

    def weighed(self, weight_B: Tensor) -> PairErrors:
        return PairErrors(
            self.preferred_B * weight_B,
            self.rejected_B * weight_B,
            self.reference_preferred_B * weight_B,
            self.reference_rejected_B * weight_B,
        )


def implicit_accuracy(gain_B: Tensor) -> Tensor:
    """1 where the model has come to prefer what was preferred, 0 where the other, 1/2 for a tie."""
    return torch.heaviside(gain_B, gain_B.new_tensor(0.5))


class OfPairs(Objective, Generic[C]):
    """A method that has something to say of pairs, whatever it learns from."""

    def __init__(self, config: C) -> None:
        self.config = config
        self.learns_from = config.learns_from
        self.uses_reference = config.uses_reference

    @abstractmethod
    def held_out_loss(self, errors: PairErrors, timesteps: int) -> Tensor:
        """Of each pair, what the method would have lower; `errors` are weighed by timestep."""


class AgainstReference(OfPairs[PairObjective]):
    """Its kind says by `pair_loss` what a gain costs."""

    @abstractmethod
    def pair_loss(self, logit_B: Tensor) -> Tensor:
        """Of beta times the gain, per pair."""

    def __call__(self, denoiser: Denoiser, batch: Batch) -> LossOutput:
        reference_2B = denoiser.reference_error(batch)  # first: what it kept would be in the way of the other's
        errors = PairErrors(*denoiser.error(batch).chunk(2), *reference_2B.chunk(2))
        weighed = errors.weighed(denoiser.weight(batch).chunk(2)[0])
        loss = self.held_out_loss(weighed, denoiser.schedule.timesteps).mean()
        gain_B = errors.gain_B.detach()
        by_row = {"implicit_accuracy": implicit_accuracy(gain_B), "margin": gain_B}
        figures = {name: value_B.mean() for name, value_B in by_row.items()} | _errors(errors)
        return LossOutput(loss, figures, Rows(batch.t_B.chunk(2)[0], errors.preferred_B.detach(), by_row))

    def held_out_loss(self, errors: PairErrors, timesteps: int) -> Tensor:
        loss_B = self.pair_loss(self.config.beta * errors.gain_B)
        return loss_B + self.config.sft_weight * errors.preferred_B if self.config.sft_weight else loss_B


def _errors(errors: PairErrors) -> dict[str, Tensor]:
    """To log."""
    return {
        "preferred/error": errors.preferred_B.detach().mean(),
        "preferred/reference": errors.reference_preferred_B.mean(),
        "rejected/error": errors.rejected_B.detach().mean(),
        "rejected/reference": errors.reference_rejected_B.mean(),
    }
