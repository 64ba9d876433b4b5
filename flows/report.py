"""The flow `report`: statistics and page again, from scores that are there."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import wiring
from flows.common import Configured, configure, run_flow


@flow(name="report")
def report(
    config: Configured, overrides: list[str] | None = None, command: str = "prefect deployment run report/report"
) -> dict[str, Any]:
    """From scores to a report; trains, draws and scores nothing.

    Args:
        config: the whole configuration, or the path of its YAML file.
        overrides: `key.path=value`, such as `evaluation.confidence=0.99`.
        command: what the report says makes it again.
    """
    return run_flow(configure(config, overrides or []), command, wiring.evaluate, expecting=wiring.SCORED)
