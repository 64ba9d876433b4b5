"""Settings of how one of several candidates is chosen: `evaluation.selection`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from eval.settings import Config


class SelectionConfig(Config):
    """The best of several candidates is chosen on some of the prompts, and judged on the others, which had no part in
    it: judged on the same, the best of many looks better than it is."""

    by: str | None = None
    """Metric whose mean improvement over the base decides. Default: the first primary one."""
    share: Annotated[float, Field(ge=0.1, le=0.9)] = 0.5
    """Of the prompts, those that the choice is made on; every category has its share, storyboards stay whole."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the division."""
