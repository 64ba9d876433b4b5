"""The flow `evaluate`: judge what was trained before, or a LoRA from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from flows import wiring
from flows.common import Configured, configure, run_flow


@flow(name="evaluate")
def evaluate(
    config: Configured,
    overrides: list[str] | None = None,
    adapter: Path | None = None,
    command: str = "prefect deployment run evaluate/evaluate",
) -> dict[str, Any]:
    """From pictures of base and candidate to a report; trains nothing.

    Args:
        config: the whole configuration, or the path of its YAML file.
        overrides: `key.path=value`, such as `evaluation.replicates=4`.
        adapter: a LoRA file; default: what this configuration has trained.
        command: what the report says makes it again.
    """
    return run_flow(
        configure(config, overrides or []), command, wiring.evaluate, expecting=wiring.TRAINED, adapter=adapter
    )
