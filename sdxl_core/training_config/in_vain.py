"""Settings that would change nothing: told, not passed over in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdxl_core.config import Config

if TYPE_CHECKING:
    from sdxl_core.training_config.training import TrainingConfig


def refuse_in_vain(section: Config, *names: str, needs: str) -> None:
    """Raises ValueError for a setting that is not at its default, where only `needs` would give it an effect."""
    for name in names:
        value, default = getattr(section, name), type(section).model_fields[name].default
        if value != default:
            raise ValueError(f"{name} = {value} has no effect without {needs}; set that, or leave {name} out")


def check_effects(training: TrainingConfig) -> None:
    """Raises ValueError where one setting leaves another without effect."""
    _check_average(training)
    _check_rates(training)
    if training.caption_dropout == 1 and training.live_text:
        raise ValueError(
            "caption_dropout = 1 leaves no caption for text_encoders and new_tokens to learn from: lower it, or leave "
            "them out"
        )


def _check_average(training: TrainingConfig) -> None:
    ema, steps = training.ema, training.max_steps
    if ema is None:
        return
    if ema.update_every_steps > steps:
        raise ValueError(
            f"ema.update_every_steps = {ema.update_every_steps} is beyond max_steps = {steps}: the average, which is "
            "what is exported, would be the untrained weights. Lower it, or set training.ema=null"
        )
    if ema.update_after_step and ema.update_after_step + 1 >= steps:
        raise ValueError(
            f"ema.update_after_step = {ema.update_after_step}: expected less than max_steps - 1 = {steps - 1}, or "
            "nothing would ever be averaged. Lower it, or set training.ema=null"
        )


def _check_rates(training: TrainingConfig) -> None:
    trained = [*training.adapted_parts, *(["tokens"] if training.new_tokens else [])]
    for part in training.learning_rates.model_dump(exclude_none=True):
        if part not in trained:
            raise ValueError(f"learning_rates.{part}: expected a part that is trained ({', '.join(trained)})")
    schedule, warmup = training.lr_schedule, training.warmup_steps
    if schedule.depends_on_length and warmup >= training.max_steps:
        raise ValueError(
            f"lr_schedule = {schedule.kind} would never begin: expected warmup_steps below max_steps = "
            f"{training.max_steps}, got {warmup}. Lower it, or take lr_schedule=constant"
        )
