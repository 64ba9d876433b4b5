"""What a metric is: a validated configuration that knows what it measures and can measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from eval.cells import number
from eval.embeddings import about_references, reference_vectors, vector_D
from eval.images import GeneratedImage, Picture
from eval.questions import Answers, Ask, Question, about_each
from eval.settings import Config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Direction = Literal[1, -1, 0]
Kind = Literal["picture", "pair", "versus", "prompt", "board", "set"]


@dataclass(frozen=True)
class Sample:
    """What gets one score, by the metric's `scored`: a generated picture; the base's and the candidate's from the same
    noise; one model's picture and the other's that it is held against; all replicates of a prompt by one model; all
    frames of a storyboard by one model and replicate, in order; or all pictures of one model."""

    pictures: tuple[GeneratedImage, ...]


@dataclass(frozen=True)
class Score:
    value: float
    truncated: bool = False
    """The scorer saw only the beginning of the prompt."""
    left_out: int = 0
    """Pictures of the sample that say nothing here, such as those without a face."""
    evidence: str = ""
    """Identity of the picture that decided it, where one did."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a metric measures with."""

    weights: Mapping[str, Path]
    """By weight field, of those that are set."""
    digests: Mapping[str, str]
    """The same, and by picture field."""
    references: tuple[Picture, ...]
    """The instance pictures; empty where there are none, and for metrics that need none."""
    cells: MutableMapping[str, bytes]
    device: str
    pictures: Mapping[str, tuple[Picture, ...]] = field(default_factory=dict)
    """By picture field that is set: what is in the folder, each picture once."""

    @property
    def instances(self) -> tuple[Picture, ...]:
        """The pictures to compare with: those of the field `pictures`, or the instance pictures."""
        return self.pictures.get("pictures", self.references)


@dataclass(frozen=True)
class Judge:
    """How a metric scores, in two steps: what it asks about pictures, and what it makes of the answers."""

    score: Callable[[Sample, Answers], Score]
    """Raises NotScored for a sample that has no score. Depends on the sample and its answers alone."""
    asks: Callable[[Sample], Iterable[Ask]]
    """About a sample's pictures; answered before `score` is called."""
    references: tuple[Ask, ...] = field(default=())
    """About the instance pictures; answered, too."""
    instances: Callable[[Answers], Sequence[tuple[Picture, Score]]] = lambda answers: ()
    """The score of each instance picture, as if it had been generated from the others: what is usual among them."""
    free: Callable[[], None] = lambda: None
    """Let go of the networks that `score` asks."""
    remark: Callable[[Sequence[Sample]], str] = lambda samples: ""
    """What a reader should know of how these were judged, in a sentence without its full stop."""


def number_told(question: Question[Any]) -> Callable[[Sample, Answers], Score]:
    """The score is the answer to one question about all of a sample's pictures."""
    return lambda sample, answers: Score(number(answers(question, *sample.pictures)))


class PromptEmbeddings(Protocol):
    def embedding_D(self, prompt: str) -> NDArray[np.float64]:
        """Of unit length and width D."""

    def is_truncated(self, prompt: str) -> bool:
        """The network sees only its beginning."""

    def free(self) -> None:
        """Let go of the network."""


def cosine_with_prompt(vision: Question[Any], text: PromptEmbeddings, scale: float) -> Judge:
    """The score is `scale` times the cosine between what `vision` makes of a picture and `text` of its prompt."""

    def score(sample: Sample, answers: Answers) -> Score:
        (picture,) = sample.pictures
        cosine = float(vector_D(answers(vision, picture)) @ text.embedding_D(picture.prompt))
        return Score(scale * cosine, truncated=text.is_truncated(picture.prompt))

    return Judge(score, about_each(vision), free=text.free)


def compared_with_instances(
    embedding: Question[Any],
    instances: tuple[Picture, ...],
    compare: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
) -> Judge:
    """The score is what `compare` makes of the instance pictures' vectors, one a row, and the picture's own."""
    instances_ND = reference_vectors(embedding, instances)

    def score(sample: Sample, answers: Answers) -> Score:
        (picture,) = sample.pictures
        return Score(compare(instances_ND(answers), vector_D(answers(embedding, picture))))

    return Judge(score, about_each(embedding), references=about_references(embedding, instances))


class Metric(Config):
    """Base of all metrics. A subclass states its facts, adds its settings as fields and implements `judge`."""

    title: ClassVar[str]
    scored: ClassVar[Kind] = "picture"
    """What one score is of."""
    needs_references: ClassVar[bool] = False
    """Compares with the instance pictures."""
    of_prompt: ClassVar[bool] = False
    """Says how much a picture shows what its prompt asks for, and nothing else."""
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
    binary: ClassVar[bool] = False
    """Every score is 0 or 1, or a mean of such, so that the mean is a rate."""
    version: ClassVar[int]
    """Raise it whenever the same picture would get another number."""
    weight_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that hold the location of weights: a local path or a hub id."""
    weights_from: ClassVar[str] = ""
    """Where one gets them; stands in the report where they are missing."""
    hub_files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Weight field -> patterns of the files to get of a hub id; where there are none, all that loading reads."""
    picture_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that hold a local folder of pictures to compare with, in place of the instance pictures. Usually
    `pictures`, which `Resources.instances` knows."""
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

    @property
    def wants_instances(self) -> bool:
        """Whether it cannot do without the instance pictures."""
        return self.needs_references and all(getattr(self, field) is None for field in self.picture_fields)

    @property
    def variant(self) -> str:
        """What of the settings makes another metric of it, behind the title in reports; empty where nothing does."""
        return ""

    @property
    def full_title(self) -> str:
        """Tells it from all other metrics of an evaluation."""
        title = f"{self.title} {self.variant}".rstrip()
        return title if self.name is None else f"{title} ({self.name})"

    def locations(self) -> dict[str, str]:
        """Weight or picture field -> location, of those that are set."""
        fields = (*self.weight_fields, *self.picture_fields)
        return {field: getattr(self, field) for field in fields if getattr(self, field) is not None}

    def identity(self) -> dict[str, object]:
        """Everything here that decides the scores' bytes, for cache keys.

        Weights and folders of pictures enter a key by digest, not here.
        """
        cosmetic = {"primary", "revision", "name", *self.weight_fields, *self.picture_fields}
        return {**self.model_dump(mode="json", exclude=cosmetic), "name": self.id, "version": self.version}

    def judge(self, resources: Resources) -> Judge:
        """Prepare to score. Loads no weights yet.

        Raises:
            EvalError: the weights or the instance pictures are not what the metric needs.
        """
        raise NotImplementedError


def missing_package(metric: Metric | type[Metric]) -> str:
    """`needs ..., which is not installed: how to get it`; empty where nothing is missing."""
    missing = {module: how for module, how in metric.packages.items() if find_spec(module) is None}
    if not missing:
        return ""
    return f"needs {', '.join(missing)}, which is not installed: {'; '.join(dict.fromkeys(missing.values()))}"
