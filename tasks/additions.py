"""What models are made of, once they are found: a base, and what is put into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.digests import digest_json
from tasks.manifest import Json, Ref
from tasks.pictures import GivenPictures
from tasks.stage import Handle
from tasks.weights import BaseModel


@dataclass(frozen=True)
class LocalFiles:
    """A LoRA file, or a folder that the trainer exported to."""

    place: Path
    digests: tuple[str, ...]


@dataclass(frozen=True)
class BundleFolder:
    """A state of a training."""

    place: Path
    digest: str


@dataclass(frozen=True)
class OwnTraining:
    """What the configuration trains."""


@dataclass(frozen=True)
class ExportedStep:
    """A step of a training, other than the one whose weights its result has."""

    training: Ref | OwnTraining
    step: int


Source = LocalFiles | BundleFolder | Ref | OwnTraining | ExportedStep


@dataclass(frozen=True)
class Added:
    """Something trained that is put into a base."""

    name: str
    kind: str
    """Of adapter."""
    scale: float
    source: Source
    step: int | None = None
    """Optimizer steps that its training had made, where that is known."""

    @property
    def order(self) -> str:
        """Sums are the same in whichever order they were said."""
        return digest_json([_identity(self.source), self.scale])


@dataclass(frozen=True)
class Model:
    """What draws."""

    name: str
    base: BaseModel
    added: tuple[Added, ...] = ()
    step: int | None = None
    """Of the one training that this is the configured base with, at full strength; None for all else."""


def training_of(model: Model | GivenPictures, own: Handle | None) -> Handle | None:
    """The train artifact whose result a model is the base with, if it is that."""
    if isinstance(model, GivenPictures) or len(model.added) != 1:
        return None
    source = model.added[0].source
    return own if isinstance(source, OwnTraining) else source if isinstance(source, Ref) else None


def _identity(source: Source) -> Json:
    if isinstance(source, OwnTraining):
        return None
    if isinstance(source, ExportedStep):
        return [_identity(source.training), source.step]
    return list(source.digests) if isinstance(source, LocalFiles) else source.digest
