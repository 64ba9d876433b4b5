"""Which noise schedule a run trains on. Importing this imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdxl_core.errors import UserError
from sdxl_core.training_config import ScheduleConfig

TIMESTEPS = 1000
"""Where a scheduler does not say how many it has."""
FOLDER, FILE = "scheduler", "scheduler_config.json"


def scheduler_settings(model: Path, config: ScheduleConfig) -> dict[str, Any]:
    """The checkpoint's scheduler configuration with what `config` changes of it.

    Raises:
        UserError: a schedule that ends in noise alone, for a network that predicts the noise.
    """
    settings: dict[str, Any] = json.loads((model / FOLDER / FILE).read_text(encoding="utf-8"))
    if config.prediction_type is not None:
        settings["prediction_type"] = config.prediction_type
    predicted = settings.get("prediction_type", "epsilon")
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
