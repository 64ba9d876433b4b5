"""The flow `class-images`: what the base makes of the class prompt, for prior preservation."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import wiring
from flows.common import Configured, configure, run_ahead
from tasks.settings import Settings


@flow(name="class-images", result_serializer="json")
def class_images(
    config: Configured, settings: Settings | None = None, overrides: list[str] | None = None
) -> dict[str, Any]:
    """Draw the class images of the section `prior`; those that are there are not drawn again.

    Args:
        config: path of the YAML file of the whole configuration; it has a section `prior`.
        settings: what is to be otherwise than in the file.
        overrides: the same as texts `key.path=value`, such as `prior.count=200`; these come last.

    Returns:
        `artifacts`: the class images; `finetune` with the same settings uses them.
    """
    return run_ahead(configure(config, overrides, settings=settings), "class-images", wiring.class_pictures)
