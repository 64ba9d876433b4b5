"""The flow `evaluate`: judge what was trained before, or any other model."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import wiring
from flows.common import Configured, configure, run_flow
from tasks.settings import Settings


@flow(name="evaluate", result_serializer="json")
def evaluate(
    config: Configured,
    settings: Settings | None = None,
    overrides: list[str] | None = None,
    candidate: str | list[str] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """From pictures of base and candidate to a report; trains nothing.

    Args:
        config: path of the YAML file of the whole configuration.
        settings: what is to be otherwise than in the file.
        overrides: the same as texts `key.path=value`, such as `evaluation.replicates=4`; these come last.
        candidate: a model by any of the names in docs/evaluation/models.md, or several; default: as configured.
        command: what the report says makes it again; default: this deployment with these parameters.
    """
    models = [candidate] if isinstance(candidate, str) else candidate or []
    configured = configure(config, overrides, models, settings)
    return run_flow(configured, command, wiring.evaluate, expecting=wiring.LEARNT)
