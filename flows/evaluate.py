"""The flow `evaluate`: judge what was trained before, or any other model."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import wiring
from flows.common import Configured, configure, run_flow


@flow(name="evaluate")
def evaluate(
    config: Configured,
    overrides: list[str] | None = None,
    candidate: str | list[str] | None = None,
    command: str = "prefect deployment run evaluate/evaluate",
) -> dict[str, Any]:
    """From pictures of base and candidate to a report; trains nothing.

    Args:
        config: the whole configuration, or the path of its YAML file.
        overrides: `key.path=value`, such as `evaluation.replicates=4`.
        candidate: a model by any of the names in docs/evaluation/models.md, or several; default: as configured.
        command: what the report says makes it again.
    """
    named = [candidate] if isinstance(candidate, str) else candidate or []
    configured = configure(config, overrides or [], named)
    return run_flow(configured, command, wiring.evaluate, expecting=wiring.LEARNT)
