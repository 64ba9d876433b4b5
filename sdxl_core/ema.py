"""Exponential moving average of the trained weights, or none: the loop calls both alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

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
    """avg <- decay * avg + (1 - decay) * weight, after every optimizer step; in float32, whatever the weights are."""

    def __init__(self, config: EmaConfig, trained: Mapping[str, nn.Parameter]) -> None:
        self.config = config
        self.names = list(trained)
        self.parameters = list(trained.values())
        self.averages = [p.detach().to(torch.float32, copy=True) for p in self.parameters]

    def decay(self, step: int) -> float:
        """Decay at optimizer step `step`, counted from 1; short at first when warming up."""
        return min(self.config.decay, (1 + step) / (10 + step)) if self.config.warmup else self.config.decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        parameters = iter(self.parameters)
        for averages in buckets(self.averages):  # so that weights of another format are converted a few at a time
            current = [p.detach().float() for p in islice(parameters, len(averages))]
            torch._foreach_lerp_(averages, current, 1 - self.decay(step))

    def state(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.averages, strict=True))

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(state[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, and its own weights again afterwards."""
        live = [p.detach().clone() for p in self.parameters]
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(live)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def build_ema(config: EmaConfig | None, trained: Mapping[str, nn.Parameter]) -> NoEma:
    return NoEma() if config is None else Ema(config, trained)
