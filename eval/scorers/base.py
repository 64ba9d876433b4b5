"""What a metric is: a validated configuration that knows what it measures and can measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from eval.cells import number
from eval.images import GeneratedImage, Picture
from eval.questions import Answers, Ask, Question
from eval.settings import Config

Direction = Literal[1, -1, 0]
Kind = Literal["picture", "pair", "prompt", "set"]


@dataclass(frozen=True)
class Sample:
    """What gets one score, by the metric's `scored`: a generated picture; the base's and the candidate's from the same
    noise; all replicates of a prompt by one model; or all pictures of one model."""

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
    """The instance pictures; empty where there are none, and for metrics that need none."""
    cells: MutableMapping[str, bytes]
    device: str


@dataclass(frozen=True)
class Judge:
    """How a metric scores, in two steps: what it asks about pictures, and what it makes of the answers."""

    score: Callable[[Sample, Answers], Score]
    """Raises NotScored for a sample that has no score. Depends on the sample and its answers alone."""
    asks: Callable[[Sample], Iterable[Ask]]
    """About a sample's pictures; answered before `score` is called."""
    references: tuple[Ask, ...] = field(default=())
    """About the instance pictures; answered, too."""


def number_told(question: Question[Any]) -> Callable[[Sample, Answers], Score]:
    """The score is the answer to one question about all of a sample's pictures."""
    return lambda sample, answers: Score(number(answers(question, *sample.pictures)))


class Metric(Config):
    """Base of all metrics. A subclass states its facts, adds its settings as fields and implements `judge`."""

    title: ClassVar[str]
    scored: ClassVar[Kind] = "picture"
    """What one score is of."""
    needs_references: ClassVar[bool] = False
    """Compares with the instance pictures."""
    direction: ClassVar[Direction]
    """+1: higher is better; -1: lower is better; 0: describes, does not judge."""
    unit: ClassVar[str]
    convention: ClassVar[str]
    """How the number is made, exactly enough to compare it with somebody else's."""
    licence: ClassVar[str]
    trained_on: ClassVar[tuple[str, ...]] = ()
    """Data that the scorer learned from; a model that learned from the same is judged by its own teacher."""
    decimals: ClassVar[int]
    tie: ClassVar[float] = 0.0
    """Differences up to this, in `unit`, are rounding: neither a win nor a loss."""
    version: ClassVar[int]
    """Raise it whenever the same picture would get another number."""
    weight_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that hold the location of weights: a local path or a hub id."""
    weight_suffixes: ClassVar[tuple[str, ...]] = (".json", ".txt", ".model", ".safetensors")
    """Of the files in a folder of weights that loading reads; they make its digest."""
    packages: ClassVar[Mapping[str, str]] = {}
    """Module that it needs -> how to install it, for what this project does not install by itself."""

    metric: str
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")] | None = None
    """How reports and tables call it. Needed only where the same metric is there twice. Default: the metric."""
    primary: bool = False
    """Counts for the verdict. Declare it before you look at results."""

    @model_validator(mode="after")
    def _only_judges_are_primary(self) -> Metric:
        if not self.primary:
            return self
        if self.direction == 0:
            raise ValueError(f"{self.metric} cannot be primary: it describes pictures, it does not judge them")
        if self.scored == "set":
            raise ValueError(f"{self.metric} cannot be primary: one number of a whole set has no interval")
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
        """Prepare to score. Loads no weights yet.

        Raises:
            EvalError: the weights or the instance pictures are not what the metric needs.
        """
        raise NotImplementedError


def missing_package(metric: Metric | type[Metric]) -> str:
    """What is not installed that the metric needs, and how to get it; empty where nothing is missing."""
    missing = [f"{module} is not installed ({how})" for module, how in metric.packages.items() if not find_spec(module)]
    return "; ".join(missing)
