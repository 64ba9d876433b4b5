"""Votes by people: which of two pictures somebody prefers without knowing whose they are.

A votes file holds one JSON object a line and only grows; docs/evaluation/votes.md has its fields.
"""

from __future__ import annotations

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from eval.errors import EvalError
from eval.settings import Config

Side = Literal["base", "candidate"]
Choice = Literal["base", "candidate", "tie"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Voter = Annotated[str, StringConstraints(strip_whitespace=True, max_length=60, pattern=r"^[^\p{C}]+$")]
"""A name that fits into a line of text."""
Pair = frozenset[str]
"""Two pictures, by their pixels' digests."""


class Typed(Config):
    """How the pictures of a prompt that a voter typed were drawn, and by which models."""

    seed: int
    steps: int
    guidance_scale: float
    base_model: str
    candidate_model: str


class Vote(Config):
    """One line of the file."""

    time: AwareDatetime
    voter: Voter
    run: str
    """Whose pictures these are: the report's title."""
    prompt_id: str
    """Empty for a typed prompt."""
    replicate: int
    prompt: str
    base_picture: Digest
    candidate_picture: Digest
    left: Side
    """Who stood left."""
    choice: Choice
    typed: Typed | None = None
    """None: the pictures are of a prompt set."""

    @model_validator(mode="after")
    def _there_are_two(self) -> Vote:
        if self.base_picture == self.candidate_picture:
            raise ValueError("base and candidate are the same picture, so there is nothing to choose")
        return self

    @property
    def pair(self) -> Pair:
        return frozenset((self.base_picture, self.candidate_picture))

    @property
    def preferred(self) -> str | None:
        """The better picture's digest; none of a tie."""
        return {"base": self.base_picture, "candidate": self.candidate_picture, "tie": None}[self.choice]


@dataclass(frozen=True)
class VotesFile:
    votes: tuple[Vote, ...]
    """In the order they were cast."""
    is_torn: bool
    """Its last line was not written to the end, and is left out."""


def read_votes(path: Path) -> VotesFile:
    """Raises EvalError naming file and line where a line, unless it is a torn last one, is no vote."""
    *lines, last = path.read_bytes().split(b"\n")
    votes = []
    for number, line in enumerate(lines, start=1):
        try:
            votes.append(Vote.model_validate_json(line))
        except ValidationError as error:
            mistake = error.errors(include_url=False)[0]
            field = ".".join(map(str, mistake["loc"]))
            what = f"{field}: {mistake['msg']}" if field else mistake["msg"]
            raise EvalError(f"{path.name} line {number}: not a vote ({what}); mend the line or remove it") from None
    unfinished = _vote_in(last)
    return VotesFile((*votes, *([unfinished] if unfinished else [])), is_torn=bool(last) and unfinished is None)


def append_vote(path: Path, vote: Vote) -> None:
    """Add one whole line and have it on the disk; a torn last line gives way to it. Safe with several writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start = _mend_end(file)
        file.write(start + vote.model_dump_json(exclude_none=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _mend_end(file: BinaryIO) -> bytes:
    """Cut off a torn last line; returns what has to stand before the next line."""
    file.seek(0)
    last = file.read().rpartition(b"\n")[2]
    if not last:
        return b""
    if _vote_in(last) is not None:
        return b"\n"
    file.truncate(file.tell() - len(last))
    return b""


def _vote_in(line: bytes) -> Vote | None:
    try:
        return Vote.model_validate_json(line)
    except ValidationError:
        return None


class Preferences:
    """The last vote of every voter about every two pictures, whichever of them was called base."""

    def __init__(self, votes: Iterable[Vote]) -> None:
        self._by_pair: dict[Pair, dict[str, Vote]] = defaultdict(dict)
        for vote in votes:
            self._by_pair[vote.pair][vote.voter] = vote

    def about(self, pair: Pair) -> tuple[Vote, ...]:
        return tuple(self._by_pair.get(pair, {}).values())

    def shares(self, first: str, second: str) -> Sequence[float]:
        """Of each voter, what the first picture got against the second: 1, 0, or one half of a tie."""
        votes = self.about(frozenset((first, second)))
        return [0.5 if vote.preferred is None else float(vote.preferred == first) for vote in votes]

    def has_voted(self, voter: str, pair: Pair) -> bool:
        return voter in self._by_pair.get(pair, {})
