"""What scorers ask about pictures: each question once about each picture, whatever number of scorers share it.

Answers are cells: known ones are never asked again. `eval.asking` has the open ones answered.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from eval.cells import cell_key
from eval.errors import EvalError, NotScored
from eval.images import Picture

if TYPE_CHECKING:
    from PIL import Image

    from eval.scorers.base import Sample

Prepared = TypeVar("Prepared")

VALUE, REASON = b"=", b"!"
"""What a cell begins with: an answer, or why there is none."""


class Question(Generic[Prepared]):
    """Asked about one picture or several together. An answer depends on them and on `spec` alone."""

    rows_at_once: int = 8
    """Pictures that a network is given together, always as many: the last ones are filled up, so that no picture's
    answer shows which others stood beside it."""
    keeps_pixels: bool = False
    """What is prepared is as large as the pictures, and answered at once; else the network is asked at the end."""

    reads_answers: bool = False
    """Looks at other answers when it prepares, and is asked when those are there: its pictures are opened once more."""

    spec: str
    """Hex digest of all that decides an answer beside the pictures; questions of one spec are one question."""

    def key(self, pictures: Sequence[Picture]) -> str:
        return cell_key("answer", spec=self.spec, about=self.about(pictures))

    def about(self, pictures: Sequence[Picture]) -> list[str]:
        """What of the pictures decides the answer; all of it is in the cell's key."""
        return [picture.identity for picture in pictures]

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> Prepared:
        """What the network is given; called in threads.

        Raises:
            NotScored: the pictures have no answer.
            EvalError: nothing can be prepared for the network.
        """
        raise NotImplementedError

    def answer(self, rows: Sequence[Prepared]) -> Sequence[bytes | NotScored]:
        """One answer a row. Raises EvalError when the weights are not what the question needs."""
        raise NotImplementedError

    def free(self) -> None:
        """Let go of the network."""


@dataclass(frozen=True)
class Ask:
    question: Question[Any]
    pictures: tuple[Picture, ...]

    @property
    def key(self) -> str:
        return self.question.key(self.pictures)


def about_each(*questions: Question[Any]) -> Callable[[Sample], list[Ask]]:
    """Every question about every picture of a sample by itself."""
    return lambda sample: [Ask(question, (picture,)) for picture in sample.pictures for question in questions]


def about_all(question: Question[Any]) -> Callable[[Sample], list[Ask]]:
    """One question about all of a sample's pictures together."""
    return lambda sample: [Ask(question, sample.pictures)]


@dataclass(frozen=True)
class Answers:
    """Looked up by what was asked."""

    cells: MutableMapping[str, bytes]
    failed: dict[str, str] = field(default_factory=dict)
    """Key -> why there is no answer, where that may be otherwise the next time."""
    broken: dict[str, EvalError] = field(default_factory=dict)
    """Spec of a question -> what is wrong with its weights."""

    def __call__(self, question: Question[Any], *pictures: Picture) -> bytes:
        """Raises NotScored where there is no answer, EvalError where the question could not be asked at all."""
        if question.spec in self.broken:
            raise self.broken[question.spec]
        key = question.key(pictures)
        if key in self.failed:
            raise NotScored(self.failed[key])
        stored = self.cells[key]
        if stored[:1] == REASON:
            raise NotScored(stored[1:].decode())
        return stored[1:]
