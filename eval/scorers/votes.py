"""Votes: which of two pictures did people prefer, not knowing whose they were?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from pydantic import field_validator

from eval.errors import EvalError, NotScored
from eval.images import Picture
from eval.questions import Answers
from eval.scorers.base import Direction, Judge, Kind, Metric, Resources, Sample, Score
from eval.voter_agreement import agreement
from eval.votes import Pair, Preferences, read_votes


class Votes(Metric):
    """A picture's share of the votes against the other model's picture of the same prompt and noise."""

    title: ClassVar[str] = "Blind vote"
    scored: ClassVar[Kind] = "versus"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "share of votes"
    convention: ClassVar[str] = (
        "share of the votes that a picture got against the other model's; of every voter the last one counts, a tie is "
        "half a vote for either, equal pictures tie unasked, and votes on typed prompts do not count"
    )
    licence: ClassVar[str] = "none needed"
    decimals: ClassVar[int] = 2
    binary: ClassVar[bool] = True
    version: ClassVar[int] = 1
    weight_fields: ClassVar[tuple[str, ...]] = ("file",)
    weights_from: ClassVar[str] = "people; `sdxl-flows view --votes FILE` asks them"

    metric: Literal["votes"]
    file: str
    """Votes file, as `sdxl-flows view` writes it."""

    @field_validator("file")
    @classmethod
    def _is_local(cls, file: str) -> str:
        if not file.startswith("/"):
            raise ValueError("expected a local file, beginning with /, ./, ../ or ~/")
        return file

    def judge(self, resources: Resources) -> Judge:
        found = read_votes(resources.weights["file"])
        votes = [vote for vote in found.votes if vote.typed is None]
        if not votes:
            raise EvalError(f"{resources.weights['file'].name} holds no vote yet; {self.weights_from}")
        preferences = Preferences(votes)

        def score(sample: Sample, answers: Answers) -> Score:
            mine, other = (picture.identity for picture in sample.pictures)
            if mine == other:
                return Score(0.5)
            shares = preferences.shares(mine, other)
            if not shares:
                raise NotScored("nobody has voted on this pair")
            return Score(sum(shares) / len(shares))

        def remark(samples: Sequence[Sample]) -> str:
            torn = "; the file's last line is torn and left out" if found.is_torn else ""
            return in_words(preferences, [sample.pictures for sample in samples]) + torn

        return Judge(score, lambda sample: (), remark=remark)


def in_words(preferences: Preferences, compared: Iterable[Sequence[Picture]]) -> str:
    """Who has voted, and how far they agree. `compared`: two pictures each, at first in the order of the sides."""
    from eval.wording import plain, plural

    pairs: dict[Pair, tuple[str, str]] = {}
    for first, second in compared:
        if first.identity != second.identity:
            pairs.setdefault(frozenset((first.identity, second.identity)), (first.identity, second.identity))
    votes = [vote for pair in pairs for vote in preferences.about(pair)]
    voters = {vote.voter for vote in votes}
    answers = [preferences.shares(*sides) for sides in pairs.values()]
    told = f"{plural(len(votes), 'vote')} by {plural(len(voters), 'voter')} on {sum(map(bool, answers))} of the "
    told += f"{plural(len(pairs), 'pair')} that differ"
    found = agreement(answers)
    if not found.units:
        return f"{told}; no pair has votes of two people, so how far people agree is not known"
    told += f"; all agree on {found.unanimous} of the {found.units} that two or more judged, Krippendorff's alpha "
    if found.alpha is None:
        return f"{told}is not defined, as there is one answer everywhere"
    return told + plain(found.alpha, 2)
