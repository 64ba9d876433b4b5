"""Small parameters with gradients, and optimizers' settings, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from sdxl_core.optimizers import OPTIMIZERS
from sdxl_core.training_config import TrainingConfig

SETTINGS: dict[str, dict[str, Any]] = {
    kind: {"optimizer": {"kind": kind}, "learning_rate": 1.0 if kind == "prodigy" else 1e-3} for kind in OPTIMIZERS
}


def _where_installed(kinds: Iterable[str]) -> list[Any]:
    """The kinds as parameters of tests, skipped where an extra is not installed."""
    missing = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra 8bit")
    return [pytest.param(kind, marks=missing) if kind == "adamw_8bit" else kind for kind in kinds]


KINDS = _where_installed(OPTIMIZERS)
SEPARABLE = _where_installed(kind for kind in OPTIMIZERS if kind not in ("prodigy", "schedule_free"))


def configured(kind: str, **more: Any) -> TrainingConfig:
    """With `more` settings of the optimizer."""
    settings = SETTINGS[kind]
    return TrainingConfig.model_validate({**settings, "optimizer": {**settings["optimizer"], **more}})


def parameters(*names: str, shape: tuple[int, ...] = (8, 6), seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(0.3 * torch.randn(shape, generator=generator)) for name in names}


def model(seed: int = 0) -> dict[str, nn.Parameter]:
    """A matrix large enough for 8-bit moments, a convolution's kernel, a bias, and a learned token."""
    shapes = {"a.weight": (72, 64), "b.weight": (6, 5, 3, 3), "b.bias": (6,), "tokens.v": (4, 9)}
    return {name: parameters(name, shape=shape, seed=seed + i)[name] for i, (name, shape) in enumerate(shapes.items())}


def set_gradients(trained: Mapping[str, nn.Parameter], step: int) -> None:
    """Gradients that are a function of the step alone."""
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in trained.values():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.to(parameter.dtype)
