"""What a comparison found: the content of comparison.json."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from eval.errors import EvalError
from eval.gate_config import GateConfig
from eval.settings import Config
from eval.stats import Interval

COMPARISON = "comparison.json"
SCHEMA_VERSION: Literal[4] = 4
INDICATIVE_BELOW_PROMPTS = 50  # fewer, and bootstrap intervals of heavy-tailed scores cover less than they say

MetricOutcome = Literal["better", "worse", "no_difference", "too_few_prompts"]
Outcome = Literal["better", "worse", "mixed", "no_difference", "not_judged"]
GateOutcome = Literal["passed", "failed", "undecided"]
Verdict = Literal["promote", "reject", "inconclusive"]


class MetricFacts(Config):
    """What a metric is; see `eval.scorers.base.Metric`."""

    name: str
    metric: str
    """What it is; several of one kind have different names."""
    title: str
    scored: Literal["picture", "pair", "versus", "prompt", "board", "set"]
    direction: Literal[1, -1, 0]
    unit: str
    convention: str
    licence: str
    trained_on: tuple[str, ...]
    decimals: int
    tie: float
    binary: bool
    version: int
    weights: dict[str, str]
    """Weight field -> digest."""
    notes: dict[str, str] = Field(default_factory=dict)
    """Weight field -> what its weights say of themselves, in one line; of those that do. Not our text."""
    remark: str = ""
    """How its pictures were judged; see `eval.scorers.base.Judge`."""


class Counted(Config):
    """How much was seen. The prompt is the unit of inference, and a storyboard, with all its frames, is one prompt."""

    prompts: int
    storyboards: int
    """Of the prompts."""

    @property
    def is_indicative(self) -> bool:
        return self.prompts < INDICATIVE_BELOW_PROMPTS


class JudgedMetric(Counted):
    """Base against candidate on a metric with a better direction. Means are over prompts, of means over replicates."""

    facts: MetricFacts
    primary: bool
    pairs: int
    """Pictures scored on both sides, or what else the metric scores."""
    base_mean: float
    candidate_mean: float
    delta: float
    """Candidate minus base, in the metric's unit; whether that is good depends on the direction."""
    delta_interval: Interval | None
    spread: float | None
    """Standard deviation over prompts of the difference; none where it does not vary."""
    d_z: float | None
    """Mean over standard deviation of the improvements (positive is better in every metric)."""
    d_z_interval: tuple[float, float] | None
    """The interval of the delta in the same standard deviations."""
    p: float | None
    p_holm: float | None
    """Adjusted over the primary metrics; none for exploratory ones."""
    wins: int
    ties: int
    losses: int
    """Pairs, counted for the candidate."""
    win_rate: float
    """Mean over prompts; a tie is half a win."""
    win_rate_interval: Interval | None
    detectable_d_z: float | None
    """The true effect that a comparison of this size finds four times in five."""
    detectable_delta: float | None
    """The same in the metric's unit, at the spread found here."""
    outcome: MetricOutcome

    @property
    def decisive_p(self) -> float | None:
        return self.p_holm if self.primary else self.p


class DescribedMetric(Counted):
    """A metric without a better direction: how far the candidate's pictures moved."""

    facts: MetricFacts
    pairs: int
    mean: float
    mean_interval: Interval | None
    lowest: float
    highest: float
    """Extremes of single pairs."""


class ShiftedMetric(Counted):
    """A metric without a better direction that both models' pictures have by themselves."""

    facts: MetricFacts
    pairs: int
    base_mean: float
    candidate_mean: float
    delta: float
    delta_interval: Interval | None


class SetMetric(Config):
    """One number of all pictures of a model. It has no interval here, and decides nothing."""

    facts: MetricFacts
    base: float | None
    candidate: float | None
    reason: str
    """Why there is no number; empty where there are both."""

    @property
    def delta(self) -> float | None:
        """Candidate minus base."""
        return None if self.base is None or self.candidate is None else self.candidate - self.base


class NotRun(Config):
    """A metric that was asked for and gave nothing."""

    name: str
    metric: str
    title: str
    primary: bool
    reason: str
    licence: str


class Unscored(Config):
    prompt_id: str
    replicate: int
    model_id: str
    metric: str
    reason: str


class Health(Config):
    """What a reader should know before trusting the numbers."""

    pictures: dict[str, int]
    """Model -> pictures in its set."""
    unscored: tuple[Unscored, ...]
    truncated_prompts: dict[str, tuple[str, ...]]
    """Metric -> prompts of which it saw only the beginning."""
    left_out: dict[str, dict[str, int]]
    """Metric -> model -> pictures that say nothing to it, such as frames without a face."""
    repeated_pictures: dict[str, int]
    """Model -> pictures that equal an earlier one of the same set, pixel for pixel."""
    identical_pairs: int
    """Pairs in which the candidate's picture is the base's, pixel for pixel."""

    def counts(self) -> list[dict[str, str | int]]:
        """Of what is not scored: metric, model, reason and how often; the most frequent first."""
        found = Counter((item.metric, item.model_id, item.reason) for item in self.unscored)
        return [
            {"metric": metric, "of": model_id, "reason": reason, "count": count}
            for (metric, model_id, reason), count in found.most_common()
        ]


class GateResult(Config):
    """One thing that the candidate has to show, and whether it has."""

    gate: GateConfig
    title: str
    decimals: int
    confidence: float
    observed: float | None
    """Mean improvement over the base (positive is better), or the candidate's own mean, by what the gate asks."""
    interval: Interval | None
    p: float | None
    """Two-sided, of a true value exactly at the bound."""
    outcome: GateOutcome
    reason: str
    """Why nothing could be decided; empty where there are numbers."""


class Look(Config):
    """What a sequential evaluation knew of its primaries after so many prompts."""

    prompts: int
    intervals: dict[str, Interval | None]
    """Primary metric -> interval of its difference, at a confidence that suffices for all of them together."""


class Comparison(Counted):
    schema_version: Literal[4] = SCHEMA_VERSION
    outcome: Outcome
    confidence: float
    candidates: int = 1
    """Judged at once against the same base. Holm's correction and the gates' confidence are for all together."""
    resamples: int
    seed: int
    replicates: int
    """The most of any prompt."""
    judged: tuple[JudgedMetric, ...]
    described: tuple[DescribedMetric, ...]
    shifted: tuple[ShiftedMetric, ...]
    sets: tuple[SetMetric, ...]
    not_run: tuple[NotRun, ...]
    gates: tuple[GateResult, ...]
    verdict: Verdict | None
    """By the gates; none where there are none."""
    looks: tuple[Look, ...]
    """Of a sequential evaluation, the last one included; empty with a fixed number of prompts."""
    decided: bool
    """More prompts would be drawn in vain: all primaries and gates are decided. With a fixed number, always."""
    health: Health

    @property
    def measured(self) -> tuple[JudgedMetric | DescribedMetric | ShiftedMetric | SetMetric, ...]:
        """All metrics that gave numbers."""
        return (*self.judged, *self.described, *self.shifted, *self.sets)

    @property
    def titles(self) -> dict[str, str]:
        """Of all metrics that gave numbers, by name."""
        return {metric.facts.name: metric.facts.title for metric in self.measured}

    @property
    def notes(self) -> dict[str, tuple[str, ...]]:
        """What weights say of themselves -> titles of the metrics that measured with them."""
        titles: dict[str, list[str]] = defaultdict(list)
        for metric in self.measured:
            for note in dict.fromkeys(metric.facts.notes.values()):
                titles[note].append(metric.facts.title)
        return {note: tuple(found) for note, found in titles.items()}

    @property
    def primaries(self) -> tuple[JudgedMetric, ...]:
        return tuple(metric for metric in self.judged if metric.primary)

    @property
    def leading(self) -> JudgedMetric | None:
        """By which the gallery is sorted: the first primary metric, or the first that judges at all; none of
        storyboards, which the gallery takes apart."""
        ordered = (*self.primaries, *self.judged)
        return next((metric for metric in ordered if metric.facts.scored != "board"), None)


def read_comparison(folder: Path) -> Comparison:
    """Raises EvalError when the folder holds no comparison of this version."""
    try:
        return Comparison.model_validate_json((folder / COMPARISON).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError) as problem:
        place = f"{folder.name}/{COMPARISON}"
        raise EvalError(f"{place}: not a comparison of version {SCHEMA_VERSION} ({problem})") from None
