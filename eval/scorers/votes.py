"""Votes: which of two pictures did people prefer, not knowing whose they were?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import field_validator

from eval.agreement import agreement
from eval.errors import EvalError, NotScored
from eval.questions import Answers
from eval.scorers.base import Direction, Judge, Kind, Metric, Resources, Sample, Score
from eval.votes import Preferences, Vote, read_votes


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
            pairs = {frozenset(picture.identity for picture in sample.pictures) for sample in samples}
            torn = "; the file's last line is torn and left out" if found.is_torn else ""
            return in_words([preferences.about(pair) for pair in pairs]) + torn

        return Judge(score, lambda sample: (), remark=remark)


def in_words(asked: Sequence[Sequence[Vote]]) -> str:
    """Who has voted, and how far they agree. `asked`: of each pair, the votes that count."""
    votes = [vote for some in asked for vote in some]
    voters = len({vote.voter for vote in votes})
    count = f"{len(votes)} vote{'' if len(votes) == 1 else 's'} by {voters} voter{'' if voters == 1 else 's'}"
    count += f" on {sum(bool(some) for some in asked)} of {len(asked)} pairs"
    found = agreement([vote.choice for vote in some] for some in asked)
    if not found.units:
        return f"{count}; no pair has votes of two people, so how far people agree is not known"
    alpha = "not defined: there is one answer everywhere" if found.alpha is None else f"{found.alpha:.2f}"
    return (
        f"{count}; all agree on {found.unanimous} of the {found.units} pairs that two or more judged, Krippendorff's "
        f"alpha {alpha}"
    )
