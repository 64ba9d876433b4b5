"""How questions are answered: each picture is decoded once, in a thread, for all that is open about it.

What a network needs of a picture is small and waits until the network is asked, one network after the other.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.errors import EvalError, NotScored
from eval.questions import REASON, VALUE, Answers, Ask, Question

if TYPE_CHECKING:
    from PIL import Image

Progress = Callable[[int, int], None]

WORKERS = os.cpu_count() or 1
UNITS_AHEAD = 2 * WORKERS
KEPT_AT_MOST = 4096
"""Prepared pictures that wait for their network; at 224 px they take 0.6 GB at most."""
_ONE_AT_A_TIME = threading.Lock()
"""Networks load when they are first asked, and libraries change what all threads of a process share while they load."""


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
    rounds = _open(units, cells)
    asking = _Asking(answers, progress, sum(len(unit) for open_units in rounds for unit in open_units))
    for open_units in filter(None, rounds):
        for ask, prepared in _prepared(open_units):
            asking.add(ask, prepared)
        asking.finish()
    return answers


def _open(
    units: Iterable[Sequence[Ask]], cells: MutableMapping[str, bytes]
) -> tuple[list[dict[str, Ask]], list[dict[str, Ask]]]:
    """By key, what has no answer yet, each question once; apart from it, what reads answers."""
    seen: set[str] = set()
    at_once: list[dict[str, Ask]] = []
    later: list[dict[str, Ask]] = []
    for unit in units:
        unanswered = {key: ask for ask in unit if (key := ask.key) not in seen and key not in cells}
        seen.update(unanswered)
        for found, reads in ((at_once, False), (later, True)):
            if part := {key: ask for key, ask in unanswered.items() if ask.question.reads_answers == reads}:
                found.append(part)
    return at_once, later


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
            self._answers.cells[key] = REASON + str(prepared).encode()
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
        self._questions.clear()

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
            with _ONE_AT_A_TIME:
                found = question.answer(filled)
        except EvalError as problem:
            self._answers.broken[question.spec] = problem
            found = []
        for (key, _), answer in zip(rows, found, strict=False):
            stored = REASON + str(answer).encode() if isinstance(answer, NotScored) else VALUE + answer
            self._answers.cells[key] = stored
        self._count(len(rows))

    def _count(self, rows: int) -> None:
        self._done += rows
        self._progress(self._done, self._total)
