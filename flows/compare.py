"""The flow `compare`: a quick look at several models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import wiring
from flows.common import begin, run_flow
from tasks.quick_look import quick_look
from tasks.settings import Settings
from tasks.store import named_store


@flow(name="compare", result_serializer="json")
def compare(
    models: Annotated[list[str], Field(min_length=2)],
    config: Path | None = None,
    prompts: Annotated[int, Field(ge=1)] = 8,
    settings: Settings | None = None,
    overrides: list[str] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """A few pictures of several models side by side, with their scores; promotes nothing.

    Args:
        models: the first is what all others are compared with; by any of the names in docs/evaluation/models.md.
        config: path of the YAML file whose prompts, sampling and metrics are used; default: those of a run among the
            models.
        prompts: at most so many, every category with its share.
        settings: what is to be otherwise than in the file or the run.
        overrides: the same as texts `key.path=value`, such as `sampling.steps=20`; these come last.
        command: what the report says makes it again; default: this deployment with these parameters.
    """
    said = begin(settings)
    store = named_store()
    settled = quick_look(config, overrides or [], models, prompts, store, said)
    return run_flow(settled, command, wiring.evaluate, expecting=wiring.LEARNT)
