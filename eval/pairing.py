"""From rows to numbers per prompt: base and candidate side by side. The frames of a storyboard are one prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eval.errors import EvalError
from eval.images import GeneratedImage, differ
from eval.stats import FloatArray
from eval.table import Row

if TYPE_CHECKING:
    from eval.result import JudgedMetric

Key = tuple[str, int]  # prompt id, or storyboard; replicate
Storyboards = Mapping[str, str]
"""What a row is of -> its storyboard; see `storyboards_for`."""
_BOARD = "storyboard "  # no prompt's id has a space


def storyboards_for(scored: str, frames: Mapping[str, str]) -> Storyboards:
    """For a metric that scores this. `frames`: prompt id -> its storyboard, of those that are frames."""
    return {name: name for name in frames.values()} if scored == "board" else frames


def unit_of(of: str, storyboards: Storyboards) -> str:
    """What is independent of all others: frames share noise, character and scene, so their storyboard is."""
    return f"{_BOARD}{storyboards[of]}" if of in storyboards else of


def storyboards_among(units: Iterable[str]) -> int:
    """How many of what `unit_of` says are storyboards."""
    return len({unit for unit in units if unit.startswith(_BOARD)})


@dataclass(frozen=True)
class Paired:
    """One metric's scores where both sides have one, in the order of the base's rows."""

    keys: tuple[Key, ...]
    units: tuple[str, ...]
    """Of each key, what `unit_of` says."""
    base: FloatArray
    candidate: FloatArray

    @property
    def delta(self) -> FloatArray:
        return self.candidate - self.base

    def by_key(self) -> dict[Key, tuple[float, float]]:
        """Pair -> its scores, base first."""
        return dict(zip(self.keys, zip(self.base.tolist(), self.candidate.tolist(), strict=True), strict=True))

    def per_prompt(self, values: FloatArray) -> FloatArray:
        """Mean over what belongs to each prompt, replicates or frames; prompts in order of appearance."""
        return group_means(self.units, values)


def group_means(groups: Sequence[Hashable], values: Iterable[float]) -> FloatArray:
    """Mean of the values of each group, groups in order of appearance."""
    members: dict[Hashable, list[float]] = defaultdict(list)
    for group, value in zip(groups, values, strict=True):
        members[group].append(value)
    return np.array([np.mean(numbers) for numbers in members.values()])


def paired_scores(rows: Iterable[Row], metric_id: str, storyboards: Storyboards) -> Paired:
    """Raises EvalError when sides do not belong together or no pair has both scores."""
    sides: dict[str, dict[Key, Row]] = {"base": {}, "candidate": {}}
    for row in rows:
        if row.metric_id == metric_id and row.model_id in sides:
            sides[row.model_id][row.key] = row
    base, candidate = sides["base"], sides["candidate"]
    for key in base.keys() & candidate.keys():
        if differ(base[key].seed, candidate[key].seed):
            raise EvalError(
                f"metric {metric_id}: prompt {key[0]!r}, replicate {key[1]}: base and candidate have different seeds "
                f"({base[key].seed} and {candidate[key].seed}); they must start from the same noise to be compared"
            )
    keys = tuple(key for key in base if key in candidate and base[key].is_scored and candidate[key].is_scored)
    if not keys:
        reasons = sorted({row.reason for row in (*base.values(), *candidate.values()) if row.reason})
        raise EvalError(f"metric {metric_id}: no prompt is scored on both sides ({'; '.join(reasons) or 'no rows'})")
    return Paired(
        keys,
        tuple(unit_of(prompt, storyboards) for prompt, _ in keys),
        np.array([base[key].value for key in keys]),
        np.array([candidate[key].value for key in keys]),
    )


def frames_of(images: Iterable[GeneratedImage]) -> dict[str, str]:
    """Prompt id -> its storyboard, of those that are frames."""
    return {image.prompt_id: image.storyboard for image in images if image.storyboard}


def paired_by_name(
    metrics: Iterable[JudgedMetric], rows: Sequence[Row], base: Iterable[GeneratedImage]
) -> dict[str, Paired]:
    """The metrics' scores, base and candidate side by side. `base`: its pictures, which say what is a frame.

    Raises:
        EvalError: nothing of a metric has both scores.
    """
    frames = frames_of(base)
    every = (metric.facts for metric in metrics)
    return {one.name: paired_scores(rows, one.name, storyboards_for(one.scored, frames)) for one in every}
