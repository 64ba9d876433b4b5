"""Where people vote: pairs of two models' pictures, one after the other, without a word on whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from eval.blind import in_turn, left_of
from eval.errors import EvalError
from eval.images import GeneratedImage, read_image_set
from eval.votes import Choice, Pair, Preferences, Side, Typed, Vote, Voter, VotesFile, append_vote, read_votes

Place = Literal["left", "right", "tie"]
"""What a voter, who does not know the sides, can say."""
_VOTER: TypeAdapter[str] = TypeAdapter(Voter)


@dataclass(frozen=True)
class ShownPair:
    """What two models drew of one prompt and replicate."""

    base: GeneratedImage
    candidate: GeneratedImage

    @property
    def pair(self) -> Pair:
        return frozenset((self.base.identity, self.candidate.identity))


@dataclass(frozen=True)
class Ballot:
    """What a voter sees next."""

    done: int
    total: int
    shown: ShownPair | None
    """None: the voter has seen all."""
    left: str
    right: str
    """Digests of the pictures; empty where there is no pair."""


def shown_pairs(base: Path, candidate: Path) -> list[ShownPair]:
    """Of two image sets, all that both have. Raises EvalError where a folder is none."""
    others = {image.key: image for image in read_image_set(candidate)}
    return [ShownPair(image, others[image.key]) for image in read_image_set(base) if image.key in others]


def voter_named(name: str) -> str:
    """Without spaces around it. Raises EvalError where it is no name."""
    try:
        return _VOTER.validate_python(name)
    except ValidationError:
        raise EvalError("voter: expected a name of 1 to 60 characters in one line") from None


class Booth:
    """Asks voters, and keeps what they say in a votes file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> VotesFile:
        """Raises EvalError where the file is damaged."""
        return read_votes(self.path) if self.path.is_file() else VotesFile((), False)

    def ask(self, voter: str, pairs: Sequence[ShownPair]) -> Ballot:
        """The next pair that this voter has not voted on; pairs that nobody could tell apart are never asked."""
        voter, preferences = voter_named(voter), Preferences(self.read().votes)
        asked = in_turn(voter, _askable(pairs), lambda shown: shown.pair)
        open_ones = [shown for shown in asked if not preferences.has_voted(voter, shown.pair)]
        shown = open_ones[0] if open_ones else None
        left, right = sides(voter, shown.pair) if shown else ("", "")
        return Ballot(len(asked) - len(open_ones), len(asked), shown, left, right)

    def cast(self, voter: str, run: str, shown: ShownPair, place: Place, typed: Typed | None = None) -> Vote:
        """Write down what a voter said of a pair that stood as `sides` has it. `run`: the report's title."""
        voter = voter_named(voter)
        side: dict[str, Side] = {shown.base.identity: "base", shown.candidate.identity: "candidate"}
        left, right = sides(voter, shown.pair)
        choices: dict[Place, Choice] = {"left": side[left], "right": side[right], "tie": "tie"}
        vote = Vote(
            time=datetime.now(UTC),
            voter=voter,
            run=run,
            prompt_id=shown.base.prompt_id,
            replicate=shown.base.replicate,
            prompt=shown.base.prompt,
            base_picture=shown.base.identity,
            candidate_picture=shown.candidate.identity,
            left=side[left],
            choice=choices[place],
            typed=typed,
        )
        append_vote(self.path, vote)
        return vote


def sides(voter: str, pair: Pair) -> tuple[str, str]:
    """-> digests of the left and the right picture."""
    left = left_of(voter, pair)
    (right,) = pair - {left}
    return left, right


def _askable(pairs: Sequence[ShownPair]) -> list[ShownPair]:
    """Every two different pictures once, where both are there."""
    different = {shown.pair: shown for shown in pairs if len(shown.pair) == 2}
    return [shown for shown in different.values() if shown.base.path.is_file() and shown.candidate.path.is_file()]
