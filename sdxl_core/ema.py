"""Exponential moving average of the trained weights, or none: the loop calls both alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from sdxl_core.sharding import divided_like, put_together, share_of
from sdxl_core.training_config import EmaConfig
from sdxl_core.workers import buckets


class NoEma:
    """The weights as they are."""

    def update(self, step: int) -> None:
        """Nothing to keep."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        assert not state, "a run without EMA was given averaged weights"

    @contextmanager
    def applied(self) -> Iterator[None]:
        yield


class Ema(NoEma):
    """avg <- decay * avg + (1 - decay) * weight, after every `update_every_steps`-th optimizer step.

    In float32, whatever the weights are.
    """

    def __init__(self, config: EmaConfig, trained: Mapping[str, nn.Parameter]) -> None:
        self.config = config
        self.names = list(trained)
        self.whole = list(trained.values())
        self.parameters = [share_of(p) for p in self.whole]
        self.averages = [self._kept(p, torch.float32) for p in self.parameters]

    def decay(self, step: int) -> float:
        """Decay at optimizer step `step`, counted from 1.

        As diffusers' `EMAModel.get_decay` (0.42) has it: the first step after `update_after_step` copies the weights.
        """
        config = self.config
        n = step - config.update_after_step - 1
        if n <= 0:
            return 0.0
        rising = (1 + n) / (10 + n) if config.warmup == "ratio" else 1 - (1 + n / config.inv_gamma) ** -config.power
        return max(config.min_decay, min(config.decay, rising))

    @torch.no_grad()
    def update(self, step: int) -> None:
        every = self.config.update_every_steps
        if step % every:
            return
        new = 1 - self.decay(step) ** every
        parameters = iter(self.parameters)
        for averages in buckets(self.averages):  # so that weights of another format or place are copied a few at a time
            current = [p.detach().to(averages[0]) for p in islice(parameters, len(averages))]
            torch._foreach_lerp_(averages, current, new)

    def state(self) -> dict[str, Tensor]:
        averages = [put_together(average, p) for average, p in zip(self.averages, self.whole, strict=True)]
        return dict(zip(self.names, averages, strict=True))

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for name, average, p in zip(self.names, self.averages, self.whole, strict=True):
            average.copy_(share_of(divided_like(state[name], p)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, and its own weights again afterwards."""
        live = [self._kept(p, p.dtype) for p in self.parameters]
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(live)

    def _kept(self, parameter: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of a parameter where averages are."""
        place = torch.device("cpu") if self.config.device == "cpu" else parameter.device
        return parameter.detach().to(place, dtype, copy=True)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def build_ema(config: EmaConfig | None, trained: Mapping[str, nn.Parameter]) -> NoEma:
    return NoEma() if config is None else Ema(config, trained)
