"""The flow `finetune`: teach the base a dataset, and report whether it is better for it."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import wiring
from flows.common import Configured, configure, run_flow
from tasks.experiment import require_candidate_trained
from tasks.settings import Settings
from tasks.trainings import Resume


@flow(name="finetune", result_serializer="json")
def finetune(
    config: Configured,
    settings: Settings | None = None,
    overrides: list[str] | None = None,
    resume: Resume | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """From dataset to report.

    Args:
        config: path of the YAML file of the whole configuration.
        settings: what is to be otherwise than in the file.
        overrides: the same as texts `key.path=value`, such as `training.learning_rate=5e-5`; these come last.
        resume: how to deal with a training under the same name that was interrupted or made with other settings.
        command: what the report says makes it again; default: this deployment with these parameters.
    """
    configured = configure(config, overrides, settings=settings)
    require_candidate_trained(configured)
    return run_flow(configured, command, wiring.finetune, resume=resume)
