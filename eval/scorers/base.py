"""What a metric is: a validated configuration that knows what it measures and can measure it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from eval.images import GeneratedImage, Picture
from eval.settings import Config

Direction = Literal[1, -1, 0]
Needs = Literal["prompt", "references", "pair"]


@dataclass(frozen=True)
class Sample:
    """What gets one score: one generated picture, or for pair metrics the base's and the candidate's."""

    pictures: tuple[GeneratedImage, ...]


@dataclass(frozen=True)
class Score:
    value: float
    truncated: bool = False
    """The scorer saw only the beginning of the prompt."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a metric measures with. `weights` and `digests` have one entry per weight field that is set."""

    weights: Mapping[str, Path]
    digests: Mapping[str, str]
    references: tuple[Picture, ...]
    cells: MutableMapping[str, bytes]
    device: str


Judge = Callable[[Sample], Score]


class Metric(Config):
    """Base of all metrics. A subclass states its facts, adds its settings as fields and implements `judge`."""

    title: ClassVar[str]
    needs: ClassVar[Needs]
    """prompt: a picture and its prompt; references: a picture and the instance pictures; pair: base and candidate."""
    direction: ClassVar[Direction]
    """+1: higher is better; -1: lower is better; 0: describes, does not judge."""
    unit: ClassVar[str]
    convention: ClassVar[str]
    """How the number is made, exactly enough to compare it with somebody else's."""
    licence: ClassVar[str]
    decimals: ClassVar[int]
    tie: ClassVar[float] = 0.0
    """Differences up to this, in `unit`, are rounding: neither a win nor a loss."""
    version: ClassVar[int]
    """Raise it whenever the same picture would get another number."""
    weight_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that hold the location of weights: a local path or a hub id."""

    metric: str
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")] | None = None
    """How reports and tables call it. Needed only where the same metric is there twice. Default: the metric."""
    primary: bool = False
    """Counts for the verdict. Declare it before you look at results."""

    @model_validator(mode="after")
    def _only_judges_are_primary(self) -> Metric:
        if self.primary and self.direction == 0:
            raise ValueError(
                f"{self.metric} cannot be primary: it describes how far pictures moved, not whether for good"
            )
        return self

    @property
    def id(self) -> str:
        return self.name or self.metric

    def locations(self) -> dict[str, str]:
        """Weight field -> location, of those that are set."""
        return {field: getattr(self, field) for field in self.weight_fields if getattr(self, field) is not None}

    def identity(self) -> dict[str, object]:
        """Everything here that decides the scores' bytes, for cache keys. Weights enter a key by digest, not here."""
        cosmetic = {"primary", "revision", "name", *self.weight_fields}
        return {**self.model_dump(mode="json", exclude=cosmetic), "name": self.id, "version": self.version}

    def judge(self, resources: Resources) -> Judge:
        """Prepare to score samples one by one.

        The function returned raises `NotScored` for a sample that has no score. A score depends on nothing but its
        sample and the resources: not on other samples, nor on what `resources.cells` already holds.
        """
        raise NotImplementedError
