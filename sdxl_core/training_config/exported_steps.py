"""Steps whose weights are left beside a training's result: `training.export_every_steps`. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdxl_core.training_config.training import TrainingConfig

EXPORTING = {"export", "best_by", "export_every_steps"}
"""Settings of training that say of which steps the weights are left."""
STEPS_FOLDER = "steps"
"""Of an export."""


def step_folder(step: int) -> str:
    """Below an export."""
    return f"{STEPS_FOLDER}/{step:08d}"


def exported_steps(training: TrainingConfig, after: int = 0) -> tuple[int, ...]:
    """In order; those of at most `after` steps are another run's.

    The last step is among them only where the result has the best one's weights instead.
    """
    every = training.export_every_steps
    if every is None:
        return ()
    last = () if training.export == "last" else (training.max_steps,)
    return (*range(after // every * every + every, training.max_steps, every), *last)


def check_exported_steps(training: TrainingConfig) -> None:
    """Raises ValueError where no step but the last would be exported."""
    every = training.export_every_steps
    if every is not None and every >= training.max_steps:
        raise ValueError(
            f"export_every_steps = {every}: expected less than max_steps = {training.max_steps}, whose weights are "
            "exported anyway; lower it, or leave it out"
        )
