"""What a report states of its lineage: the form of `provenance` in report.json. Digests and versions, no times, no
places; and complete, so that every key can be computed again from it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from eval.settings import Config

_ARTIFACT, _DIGEST = r"^[a-z_]+/[0-9a-f]{32}$", r"^[0-9a-f]{64}$"


class StatedInput(Config):
    artifact: str = Field(pattern=_ARTIFACT)
    """Kind and key."""
    content: str = Field(pattern=_DIGEST)


class StatedSource(Config):
    """What is no artifact: pictures, weights, prompts."""

    what: str
    sha256: str = Field(pattern=_DIGEST)


class Stated(StatedInput):
    """One artifact and its recipe."""

    label: str
    code: str
    """The stage's code version."""
    params: dict[str, Any]
    """A long list in it is `{"items": [[first place, how many], ...], "sha256": of the list}`."""
    inputs: dict[str, StatedInput]
    sources: list[StatedSource]
    """What of `params` they are."""
    libraries: int
    """Place in the lineage's `libraries`."""


class StatedLineage(Config):
    artifacts: list[Stated]
    """Inputs first."""
    items: list[Any]
    """Entries of long lists, each once: the same prompts are drawn by several models."""
    libraries: list[dict[str, str]]
    """Versions that artifacts were made with."""


def is_long(value: Any) -> bool:
    """Whether a value of `params` stands for a long list."""
    return isinstance(value, dict) and value.keys() == {"items", "sha256"}
