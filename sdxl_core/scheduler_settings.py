"""Which noise schedule a run trains on, and what goes with it. Importing this imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdxl_core.errors import UserError
from sdxl_core.training_config import ScheduleConfig, TrainingConfig

TIMESTEPS = 1000
"""Where a scheduler does not say how many it has."""
EPSILON = "epsilon"
"""Where a scheduler does not say what is predicted."""
FOLDER, FILE = "scheduler", "scheduler_config.json"


def scheduler_settings(model: Path, config: ScheduleConfig) -> dict[str, Any]:
    """The checkpoint's scheduler configuration with what `config` changes of it.

    Raises:
        UserError: a schedule that ends in noise alone, for a network that predicts the noise.
    """
    settings: dict[str, Any] = json.loads((model / FOLDER / FILE).read_text(encoding="utf-8"))
    if config.prediction_type is not None:
        settings["prediction_type"] = config.prediction_type
    predicted = settings.get("prediction_type", EPSILON)
    if config.zero_terminal_snr:
        if predicted != "v_prediction":
            raise UserError.about(
                "training.schedule.zero_terminal_snr",
                expected="a network that predicts the velocity",
                got=f"prediction_type {predicted!r}, the checkpoint's own",
                fix="Set training.schedule.prediction_type=v_prediction: the network then learns it along",
            )
        # sampling has to begin at the last timestep, where there is noise alone (Lin et al. 2023, section 3.3)
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return settings


def refuse_timesteps_beyond(there_are: int, config: TrainingConfig) -> None:
    """Raises UserError for timesteps that the schedule does not have, or that it needs and that are not trained."""
    high = config.timesteps.high or there_are
    measured = config.validation_loss.timesteps if config.validation_loss else None
    for where, highest in (
        ("training.timesteps.low", config.timesteps.low),
        ("training.timesteps.high", high - 1),
        ("training.validation.loss.timesteps", max(measured or (0,))),
    ):
        if highest >= there_are:
            raise UserError.about(where, expected=f"below {there_are}, all there are", got=highest)
    if config.schedule.zero_terminal_snr and high < there_are:
        raise UserError.about(
            "training.timesteps.high",
            expected=f"{there_are} with schedule.zero_terminal_snr, whose pictures begin at the last timestep",
            got=high,
            fix="Leave it out",
        )


def refuse_base_of_another_prediction(model: Path, config: ScheduleConfig) -> None:
    """Raises UserError where the base's predictions, asked as targets, would be of another kind than the network's."""
    own = scheduler_settings(model, ScheduleConfig()).get("prediction_type", EPSILON)
    if config.prediction_type not in (None, own):
        raise UserError.about(
            "training.schedule.prediction_type",
            expected=f"{own}, the checkpoint's own, where losses are held against what the base predicts",
            got=config.prediction_type,
            fix="Take objective.kind=diffusion, or prior_preservation with target=noise; masked_loss.prior_weight=0",
        )
