"""The flow `report`: statistics and page again, from scores that are there."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import wiring
from flows.common import Configured, configure, run_flow
from tasks.settings import Settings


@flow(name="report", result_serializer="json")
def report(
    config: Configured,
    settings: Settings | None = None,
    overrides: list[str] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """From scores to a report; trains, draws and scores nothing.

    Args:
        config: path of the YAML file of the whole configuration.
        settings: what is to be otherwise than in the file.
        overrides: the same as texts `key.path=value`, such as `evaluation.confidence=0.99`; these come last.
        command: what the report says makes it again; default: this deployment with these parameters.
    """
    configured = configure(config, overrides, settings=settings)
    return run_flow(configured, command, wiring.evaluate, expecting=wiring.SCORED)
