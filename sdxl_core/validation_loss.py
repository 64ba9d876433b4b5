"""The loss on held-out pictures, at fixed timesteps and with fixed noise.

Two steps, or two runs, differ in it by their weights alone: nothing is drawn anew, captions stay, each picture is its
first crop and its posterior's mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sdxl_core import randomness
from sdxl_core.batch import Batch, Conditioning
from sdxl_core.best import VALIDATION_LOSS
from sdxl_core.cached_images import CachedImages
from sdxl_core.denoiser import Denoiser
from sdxl_core.loop import Metrics, TrainState
from sdxl_core.together import Action
from sdxl_core.training_config import TimestepConfig, ValidationLossConfig
from sdxl_core.training_set import shape_CHW
from sdxl_core.training_text import TrainingText
from sdxl_core.validation import evaluating

DEFAULT_TIMESTEPS = 8

# N pictures, T timesteps, D draws of noise, R rows of one picture

Draw = tuple[int, int]
"""Timestep, number of the noise."""


def validation_timesteps(config: ValidationLossConfig, trained: TimestepConfig, timesteps: int) -> tuple[int, ...]:
    """Those that are configured, or the middles of equal parts of those that are trained."""
    if config.timesteps is not None:
        return config.timesteps
    low, high = trained.low, min(trained.high or timesteps, timesteps)
    count = min(DEFAULT_TIMESTEPS, high - low)
    return tuple(low + (2 * i + 1) * (high - low) // (2 * count) for i in range(count))


class HeldOutMeasure(ABC):
    """What is measured on held-out pictures or pairs before the first step and after each `every_steps`-th."""

    def __init__(
        self,
        config: ValidationLossConfig,
        images: CachedImages,
        text: TrainingText,
        *,
        scaling_factor: float,
        timesteps: Sequence[int],
        rows_at_once: int,
    ) -> None:
        self.config = config
        self.images = images
        self.text = text
        self.scaling_factor = scaling_factor
        self.timesteps = timesteps
        self.rows_at_once = rows_at_once

    @property
    @abstractmethod
    def described(self) -> dict[str, Any]:
        """For reports."""

    @abstractmethod
    def measure(self, state: TrainState) -> Metrics:
        """With the average where there is one; the state is as before when this returns."""

    @abstractmethod
    def begin(self, denoiser: Denoiser, device: torch.device) -> None:
        """See what has to be known of the model that training begins with."""

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        if state.step % self.config.every_steps == 0:
            metrics |= self.measure(state)

    def _in_parts(self) -> Iterator[Sequence[Draw]]:
        """All that is drawn for one picture or pair, `rows_at_once` at a time."""
        drawn = [(t, number) for t in self.timesteps for number in range(self.config.draws)]
        for begin in range(0, len(drawn), self.rows_at_once):
            yield drawn[begin : begin + self.rows_at_once]

    def _noise(self, like_CHW: Tensor, drawn: Sequence[Draw], *names: str) -> Tensor:
        """R x C x H x W, always the same for what these names stand for."""
        draw: tuple[str | int, ...] = ("validation", self.config.seed, *names)
        return torch.stack([randomness.normal(shape_CHW(like_CHW), *draw, t, number) for t, number in drawn])

    def _conditioning(self, picture: int, rows: int) -> Conditioning:
        """A picture's caption and time ids, in so many rows."""
        text_R = torch.tensor([self.text.rows[self.images.captions[picture]][0]] * rows)
        time_ids_R6 = self.images.time_ids_NV6[picture][0].expand(rows, -1)
        return Conditioning(self.text.pick(text_R), self.text.lengths_U[text_R], time_ids_R6)

    def _by_timestep(self, figure: str, value_N: Tensor, prefix: str) -> Metrics:
        """The mean of all values, and of each timestep's; they follow each other by picture or pair, timestep, draw."""
        mean_T = value_N.double().view(-1, len(self.timesteps), self.config.draws).mean(dim=(0, 2))
        found = {f"{prefix}/t{t:03d}": mean for t, mean in zip(self.timesteps, mean_T, strict=True)}
        return {figure: mean_T.mean(), **found}


class ValidationLoss(HeldOutMeasure):
    """`validation/loss`, and that of every timestep."""

    @property
    def described(self) -> dict[str, Any]:
        pictures, weighted = len(self.images), self.config.weighted
        return {"pictures": pictures, "timesteps": list(self.timesteps), "weighted": weighted}

    def begin(self, denoiser: Denoiser, device: torch.device) -> None:
        """Nothing has to be known."""

    @torch.no_grad()
    def measure(self, state: TrainState) -> Metrics:
        state.together.lead(Action.MEASURE)
        device = state.parameters[0].device
        with state.weights_for_use(), evaluating(state.denoiser.networks):
            errors = torch.cat([self._errors(state.denoiser, batch.to(device)) for batch in self._batches()])
        return self._by_timestep(VALIDATION_LOSS, errors, "validation")

    def _errors(self, denoiser: Denoiser, batch: Batch) -> Tensor:
        error_B = denoiser.error(batch)
        return error_B * denoiser.weight(batch) if self.config.weighted else error_B

    def _batches(self) -> Iterator[Batch]:
        """No batch holds two pictures, which may differ in size."""
        for picture in range(len(self.images)):
            for drawn in self._in_parts():
                yield self._batch(picture, drawn)

    def _batch(self, picture: int, drawn: Sequence[Draw]) -> Batch:
        x_CHW, rows = self.images.mean_NVCHW[picture][0] * self.scaling_factor, len(drawn)
        eps_RCHW = self._noise(x_CHW, drawn, self.images.sha256s[picture])
        t_R = torch.tensor([t for t, _ in drawn])
        return Batch(x_CHW.expand(rows, -1, -1, -1), self._conditioning(picture, rows), eps_RCHW, eps_RCHW, t_R)
