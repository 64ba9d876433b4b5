"""What held-out pairs say, at fixed timesteps and with fixed noise: has the model come to prefer what was preferred?

Errors are compared with those of the model that training began with, also for methods without a reference: they are
measured when the run is set up, before it learns or goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sdxl_core.batch import Batch
from sdxl_core.best import IMPLICIT_ACCURACY, VALIDATION_LOSS
from sdxl_core.denoiser import Denoiser
from sdxl_core.loop import Metrics, TrainState
from sdxl_core.objectives.pairs import OfPairs, PairErrors, implicit_accuracy
from sdxl_core.preferences import Members, PairedImages
from sdxl_core.together import Action
from sdxl_core.training_config import ValidationLossConfig
from sdxl_core.training_text import TrainingText
from sdxl_core.validation import evaluating
from sdxl_core.validation_loss import Draw, HeldOutMeasure

# N rows of all pairs: by pair, timestep and draw; R rows of one pair; a batch holds 2 R rows


class PairValidation(HeldOutMeasure):
    """`validation/loss`, what the objective would have lower, `validation/implicit_accuracy` and `validation/margin`;
    the first two of every timestep, too. Errors are weighed by timestep, as the objective's are."""

    def __init__(
        self,
        config: ValidationLossConfig,
        paired: PairedImages,
        text: TrainingText,
        objective: OfPairs[Any],
        *,
        scaling_factor: float,
        timesteps: Sequence[int],
        rows_at_once: int,
    ) -> None:
        super().__init__(
            config,
            paired.images,
            text,
            scaling_factor=scaling_factor,
            timesteps=timesteps,
            rows_at_once=rows_at_once,
        )
        self.pairs = paired.members
        self.objective = objective
        self.reference_2N = torch.empty(0)

    @property
    def described(self) -> dict[str, Any]:
        return {"pairs": len(self.pairs), "timesteps": list(self.timesteps), "weighted": True}

    def begin(self, denoiser: Denoiser, device: torch.device) -> None:
        self.reference_2N = self._errors(denoiser, device)

    def measure(self, state: TrainState) -> Metrics:
        state.together.lead(Action.MEASURE)
        with state.weights_for_use():
            errors_2N = self._errors(state.denoiser, state.parameters[0].device)
        errors = PairErrors(*errors_2N, *self.reference_2N)
        loss_N = self.objective.held_out_loss(errors, state.denoiser.schedule.timesteps)
        right = self._by_timestep(IMPLICIT_ACCURACY, implicit_accuracy(errors.gain_B), IMPLICIT_ACCURACY)
        loss = self._by_timestep(VALIDATION_LOSS, loss_N, "validation")
        return {**loss, **right, "validation/margin": errors.gain_B.double().mean()}

    @torch.no_grad()
    def _errors(self, denoiser: Denoiser, device: torch.device) -> Tensor:
        """2 x N: of the preferred and of the rejected pictures."""
        found = []
        with evaluating(denoiser.networks):
            for batch in self._batches():
                there = batch.to(device)
                found.append((denoiser.error(there) * denoiser.weight(there)).view(2, -1))
        return torch.cat(found, dim=1)

    def _batches(self) -> Iterator[Batch]:
        for pair in self.pairs:
            for drawn in self._in_parts():
                yield self._batch(pair, drawn)

    def _batch(self, pair: Members, drawn: Sequence[Draw]) -> Batch:
        """The preferred picture at all rows, then the rejected one with the same noise."""
        pictures = (pair.preferred, pair.rejected)
        x_2CHW = torch.stack([self.images.mean_NVCHW[place][0] for place in pictures]) * self.scaling_factor
        eps_RCHW = self._noise(x_2CHW[0], drawn, *sorted(self.images.sha256s[place] for place in pictures))
        eps_2RCHW, t_2R = torch.cat([eps_RCHW, eps_RCHW]), torch.tensor([t for t, _ in drawn] * 2)
        x_2RCHW = x_2CHW.repeat_interleave(len(drawn), dim=0)
        return Batch(x_2RCHW, self._conditioning(pair.first, 2 * len(drawn)), eps_2RCHW, eps_2RCHW, t_2R)
