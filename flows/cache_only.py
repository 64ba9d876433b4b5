"""The flow `cache-only`: all that a training needs beside the training, so that a GPU begins with it at once."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import wiring
from flows.common import Configured, configure, run_ahead
from tasks.settings import Settings


@flow(name="cache-only", result_serializer="json")
def cache_only(
    config: Configured, settings: Settings | None = None, overrides: list[str] | None = None
) -> dict[str, Any]:
    """Dataset, checks, faces, class images, latents and text embeddings; trains nothing.

    Args:
        config: path of the YAML file of the whole configuration.
        settings: what is to be otherwise than in the file.
        overrides: the same as texts `key.path=value`, such as `transform.resolution_px=512`; these come last.

    Returns:
        `artifacts`: all by label; `finetune` with the same settings uses them.
    """
    return run_ahead(configure(config, overrides, settings=settings), "cache", wiring.cache)
