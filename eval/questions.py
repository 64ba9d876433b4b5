"""What scorers ask about pictures: each question once about each picture, whatever number of scorers share it.

A picture is decoded once, in a thread, for all questions that are open about it; what a network needs of it is small
and waits until the network is asked, one network after the other. Answers are cells: known ones are never asked again.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from eval.cells import cell_key
from eval.errors import EvalError, NotScored
from eval.images import Picture

if TYPE_CHECKING:
    from PIL import Image

    from eval.scorers.base import Sample

Progress = Callable[[int, int], None]
Prepared = TypeVar("Prepared")

WORKERS = os.cpu_count() or 1
UNITS_AHEAD = 2 * WORKERS
KEPT_AT_MOST = 4096
"""Prepared pictures that wait for their network; at 224 px they take 0.6 GB at most."""
_VALUE, _REASON = b"=", b"!"


class Question(Generic[Prepared]):
    """Asked about one picture or several together. An answer depends on them and on `spec` alone."""

    rows_at_once: int = 8
    """Pictures that a network is given together, always as many: the last ones are filled up, so that no picture's
    answer shows which others stood beside it."""
    keeps_pixels: bool = False
    """What is prepared is as large as the pictures, and answered at once; else the network is asked at the end."""

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
        if stored[:1] == _REASON:
            raise NotScored(stored[1:].decode())
        return stored[1:]


def no_progress(done: int, total: int) -> None:
    """For callers who do not watch."""


def ask_all(
    units: Iterable[Sequence[Ask]], cells: MutableMapping[str, bytes], progress: Progress = no_progress
) -> Answers:
    """Have all questions answered.

    Args:
        units: what is asked about pictures that are needed together; each picture of a unit is decoded once.
        cells: answers known already; new ones are added.
        progress: told (answered, of how many that were open).
    """
    answers = Answers(cells)
    open_units = _open(units, cells)
    asking = _Asking(answers, progress, sum(map(len, open_units)))
    for ask, prepared in _prepared(open_units):
        asking.add(ask, prepared)
    asking.finish()
    return answers


def _open(units: Iterable[Sequence[Ask]], cells: MutableMapping[str, bytes]) -> list[dict[str, Ask]]:
    """By key, what has no answer yet; each question once."""
    seen: set[str] = set()
    found = []
    for unit in units:
        unanswered = {key: ask for ask in unit if (key := ask.key) not in seen and key not in cells}
        seen.update(unanswered)
        if unanswered:
            found.append(unanswered)
    return found


def _prepared(units: Sequence[dict[str, Ask]]) -> Iterator[tuple[tuple[str, Ask], Any]]:
    """What threads make of the pictures, in order, some units ahead; a NotScored in place of what has no answer."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="decode") as pool:
        ahead: deque[Future[list[tuple[tuple[str, Ask], Any]]]] = deque()
        try:
            for unit in units:
                ahead.append(pool.submit(_prepare_unit, unit))
                if len(ahead) > UNITS_AHEAD:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _prepare_unit(unit: dict[str, Ask]) -> list[tuple[tuple[str, Ask], Any]]:
    pictures = {picture.identity: picture for ask in unit.values() for picture in ask.pictures}
    images: dict[str, Image.Image | NotScored] = {}
    for identity, picture in pictures.items():
        try:
            images[identity] = picture.load()
        except NotScored as problem:
            images[identity] = problem
    return [((key, ask), _prepare(ask, images)) for key, ask in unit.items()]


def _prepare(ask: Ask, images: dict[str, Image.Image | NotScored]) -> Any:
    opened: list[Image.Image] = []
    for picture in ask.pictures:
        image = images[picture.identity]
        if isinstance(image, NotScored):
            return _Unreadable(str(image))
        opened.append(image)
    try:
        return ask.question.prepare(ask.pictures, opened)
    except (NotScored, EvalError) as reason:
        return reason


@dataclass(frozen=True)
class _Unreadable:
    """Not remembered: the file may be whole the next time."""

    reason: str


class _Asking:
    """Collects rows for each network and asks it."""

    def __init__(self, answers: Answers, progress: Progress, total: int) -> None:
        self._answers, self._progress, self._total = answers, progress, total
        self._done = self._kept = 0
        self._waiting: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        self._questions: dict[str, Question[Any]] = {}

    def add(self, asked: tuple[str, Ask], prepared: Any) -> None:
        key, ask = asked
        if isinstance(prepared, _Unreadable):
            self._answers.failed[key] = prepared.reason
            self._count(1)
        elif isinstance(prepared, NotScored):
            self._answers.cells[key] = _REASON + str(prepared).encode()
            self._count(1)
        elif isinstance(prepared, EvalError):
            self._answers.broken[ask.question.spec] = prepared
            self._count(1)
        else:
            self._wait(ask.question, key, prepared)

    def finish(self) -> None:
        for question in self._questions.values():
            self._ask(question)
            question.free()

    def _wait(self, question: Question[Any], key: str, prepared: Any) -> None:
        question = self._questions.setdefault(question.spec, question)
        self._waiting[question.spec].append((key, prepared))
        if question.keeps_pixels:
            if len(self._waiting[question.spec]) >= question.rows_at_once:
                self._ask(question)
            return
        self._kept += 1
        if self._kept >= KEPT_AT_MOST:
            self.finish()

    def _ask(self, question: Question[Any]) -> None:
        waiting = self._waiting.pop(question.spec, [])
        if not question.keeps_pixels:
            self._kept -= len(waiting)
        size = question.rows_at_once
        for start in range(0, len(waiting), size):
            self._ask_rows(question, waiting[start : start + size])

    def _ask_rows(self, question: Question[Any], rows: Sequence[tuple[str, Any]]) -> None:
        if question.spec in self._answers.broken:
            self._count(len(rows))
            return
        filled = [prepared for _, prepared in rows]
        filled += [filled[-1]] * (question.rows_at_once - len(rows))
        try:
            found = question.answer(filled)
        except EvalError as problem:
            self._answers.broken[question.spec] = problem
            found = []
        for (key, _), answer in zip(rows, found, strict=False):
            stored = _REASON + str(answer).encode() if isinstance(answer, NotScored) else _VALUE + answer
            self._answers.cells[key] = stored
        self._count(len(rows))

    def _count(self, rows: int) -> None:
        self._done += rows
        self._progress(self._done, self._total)
