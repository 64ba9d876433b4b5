"""Learning rates: pure functions of the optimizer step, whatever accumulation and processes make up the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sdxl_core.parts import Part
from sdxl_core.training_config import TrainingConfig


@dataclass(frozen=True)
class Place:
    """Where in a run a step is, warm-up over."""

    step: int
    """Optimizer steps done, those of warm-up included."""
    done: float
    """Share of the steps after warm-up that are done."""
    learning_rate: float
    """`training.learning_rate`."""


def _constant(schedule: Any, at: Place) -> float:
    return 1.0


def _linear(schedule: Any, at: Place) -> float:
    return 1.0 - at.done


def _cosine(schedule: Any, at: Place) -> float:
    return max(0.0, 0.5 * (1 + math.cos(2 * schedule.cycles * math.pi * at.done)))


def _cosine_with_restarts(schedule: Any, at: Place) -> float:
    if at.done >= 1:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * ((schedule.cycles * at.done) % 1.0)))


def _polynomial(schedule: Any, at: Place) -> float:
    end: float = schedule.end_rate / at.learning_rate
    power: float = (1 - at.done) ** schedule.power
    return end + (1 - end) * power


def _piecewise_constant(schedule: Any, at: Place) -> float:
    passed = sum(at.step >= until for until in schedule.until_steps)
    factor: float = schedule.factors[passed]
    return factor


LR_SHAPES: dict[str, Callable[[Any, Place], float]] = {
    "constant": _constant,
    "constant_with_warmup": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "piecewise_constant": _piecewise_constant,
}
"""The factor of the rate after warm-up. With diffusers' names, as diffusers' `get_scheduler` has them."""

ROW_FACTORS: dict[str, Callable[[int], float]] = {"none": lambda rows: 1.0, "linear": float, "sqrt": math.sqrt}
"""`training.scale_lr`: what rates are multiplied by, of the rows of an optimizer step."""


def learning_rate(config: TrainingConfig, step: int, rate: float | None = None) -> float:
    """Rate of optimizer step `step` (counted from 0): warm-up from zero, then the schedule to the last step.

    `rate` is what it rises to; default: `training.learning_rate`. Warm-up has no step at zero, which diffusers' has:
    its step s stands at (s + 1) / (warmup_steps + 1).
    """
    peak = config.learning_rate if rate is None else rate
    if step < config.warmup_steps:
        return peak * (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    place = Place(step, min(1.0, done), config.learning_rate)
    return peak * LR_SHAPES[config.lr_schedule.kind](config.lr_schedule, place)


def learning_rates(config: TrainingConfig, step: int, parts: Iterable[Part], rows_per_step: int) -> dict[Part, float]:
    """The rate of each part at optimizer step `step`; zero where it has stopped learning.

    At zero nothing moves or decays a part: optimizers that would still do so refuse `text_encoders.until_step`.
    """

    def rate(part: Part) -> float:
        return learning_rate(config, step, base_rate(config, part, rows_per_step))

    return {part: 0.0 if _has_stopped(config, part, step) else rate(part) for part in parts}


def _has_stopped(config: TrainingConfig, part: Part, step: int) -> bool:
    chosen = config.text_encoders
    if chosen is None or chosen.until_step is None:
        return False
    return part in ("text_encoder", "text_encoder_2") and step >= chosen.until_step


def curves(rates: Mapping[Part, float]) -> dict[str, float]:
    """`learning_rate` of the first part, the UNet if it is trained, and `learning_rate/<part>` of the others."""
    return {f"learning_rate/{part}" if i else "learning_rate": rate for i, (part, rate) in enumerate(rates.items())}


def base_rate(config: TrainingConfig, part: Part, rows_per_step: int) -> float:
    """The rate of a part after warm-up."""
    own = getattr(config.learning_rates, part, None)  # the UNet has none of its own
    rate: float = config.learning_rate if own is None else own
    return rate * ROW_FACTORS[config.scale_lr](rows_per_step)
