"""A sweep in the report of several candidates: which settings they were trained with, and what holds over seeds."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval import stats
from eval.images import GeneratedImage
from eval.inference import FixedNumber, Inference
from eval.matrix_words import Found, judged_of
from eval.pairing import Paired, paired_by_name
from eval.result import Comparison, MetricFacts, MetricOutcome
from eval.seeds import FEWEST_SEEDS, OverSeeds, over_seeds, table_of
from eval.table import read_scores
from eval.wording import plural


@dataclass(frozen=True)
class Member:
    """One training."""

    slug: str
    """The candidate's."""
    seed: str
    training: str
    """Its artifact."""


@dataclass(frozen=True)
class Group:
    """Trainings with the same settings, that differ in nothing but their seed."""

    name: str
    values: tuple[str, ...]
    """Of the sweep's `settings`, in their order; not our text."""
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Failed:
    """A training that came to nothing."""

    name: str
    reason: str


@dataclass(frozen=True)
class Sweep:
    """What was varied."""

    settings: tuple[str, ...]
    """Keys that differ between groups."""
    groups: tuple[Group, ...]
    failed: tuple[Failed, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences on how it was made."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Sweep:
        """From what `asdict` makes of one."""
        groups = tuple(
            Group(one["name"], tuple(one["values"]), tuple(Member(**member) for member in one["members"]))
            for one in document["groups"]
        )
        failed = tuple(Failed(**one) for one in document["failed"])
        return cls(tuple(document["settings"]), groups, failed, tuple(document["notes"]))


@dataclass(frozen=True)
class GroupMetric:
    """What one metric says of a group: differences from the base."""

    facts: MetricFacts
    primary: bool
    by_seed: dict[str, float]
    """Seed -> mean difference over the prompts that all of the group's trainings have a score of."""
    prompts: int
    found: OverSeeds
    p_holm: float | None = None
    """Adjusted over all groups and primary metrics; none for exploratory ones."""
    outcome: MetricOutcome | None = None
    """Of the settings; none where nothing is inferred of them."""

    def as_json(self) -> dict[str, Any]:
        return {
            "metric": self.facts.name,
            "primary": self.primary,
            "by_seed": self.by_seed,
            "prompts": self.prompts,
            **asdict(self.found),
            "p_holm": self.p_holm,
            "outcome": self.outcome,
        }


@dataclass(frozen=True)
class SweptGroup:
    group: Group
    metrics: tuple[GroupMetric, ...]
    """Those that judge every one of its members, in the candidates' order of metrics."""

    def metric(self, name: str) -> GroupMetric | None:
        return next((one for one in self.metrics if one.facts.name == name), None)


def swept(
    sweep: Sweep, found: Found, comparisons: Path, base: Sequence[GeneratedImage], facts: Sequence[MetricFacts]
) -> list[SweptGroup]:
    """What is known of each group.

    Args:
        found, comparisons: what `compare_several` found, and where it wrote it.
        base: the base's pictures, which say what is a frame.
        facts: of the metrics, in the order in which they are shown.
    """
    first = next(iter(found.values()))
    # who stops when it suffices has looked too often for intervals that are made for one look
    inference = None if first.looks else FixedNumber(first.resamples)
    paired = {slug: paired_by_name(one.judged, read_scores(comparisons / slug), base) for slug, one in found.items()}
    groups = []
    for group in sweep.groups:
        metrics = [_group_metric(group, one, found, paired, inference) for one in facts]
        groups.append(SweptGroup(group, tuple(metric for metric in metrics if metric is not None)))
    return _with_outcomes(groups, 1 - first.confidence)


def _group_metric(
    group: Group,
    facts: MetricFacts,
    found: Found,
    paired: Mapping[str, Mapping[str, Paired]],
    inference: Inference | None,
) -> GroupMetric | None:
    judged = [judged_of(found[member.slug], facts.name) for member in group.members]
    if not judged or any(metric is None for metric in judged):
        return None
    rows = [_by_prompt(paired[member.slug][facts.name]) for member in group.members]
    d_SP = table_of(rows)
    if not d_SP.size:
        return None
    first: Comparison = found[group.members[0].slug]
    over = over_seeds(d_SP, first.confidence, inference, seed_for(first, facts.name), binary=facts.binary)
    by_seed = {member.seed: float(mean) for member, mean in zip(group.members, d_SP.mean(axis=1), strict=True)}
    assert judged[0] is not None
    return GroupMetric(facts, judged[0].primary, by_seed, d_SP.shape[1], over)


def _by_prompt(paired: Paired) -> dict[str, float]:
    means = paired.per_prompt(paired.delta).tolist()
    return dict(zip(dict.fromkeys(paired.units), means, strict=True))


def _with_outcomes(groups: Sequence[SweptGroup], alpha: float) -> list[SweptGroup]:
    """p corrected for the number of groups and primary metrics, and what each metric shows at level `alpha`."""
    tested = [
        metric.found.p for one in groups for metric in one.metrics if metric.primary and metric.found.p is not None
    ]
    adjusted = iter(stats.holm(tested))
    settled = []
    for one in groups:
        metrics = []
        for metric in one.metrics:
            p_holm = next(adjusted) if metric.primary and metric.found.p is not None else None
            metrics.append(_settled(metric, p_holm, alpha))
        settled.append(SweptGroup(one.group, tuple(metrics)))
    return settled


def _settled(metric: GroupMetric, p_holm: float | None, alpha: float) -> GroupMetric:
    p = p_holm if metric.primary else metric.found.p
    outcome: MetricOutcome | None = None
    if p is not None:
        better: MetricOutcome = "better" if metric.facts.direction * metric.found.mean > 0 else "worse"
        outcome = better if p <= alpha else "no_difference"
    return GroupMetric(metric.facts, metric.primary, metric.by_seed, metric.prompts, metric.found, p_holm, outcome)


def has_seeds(groups: Sequence[SweptGroup]) -> bool:
    """Whether any settings were trained with more than one seed."""
    return any(len(one.group.members) > 1 for one in groups)


def how_inferred(groups: Sequence[SweptGroup], found: Found) -> str:
    """What the page may say of other seeds than those trained, and why."""
    most = max(len(one.group.members) for one in groups)
    if most < 2:
        return "Every setting was trained with one seed: how much of a difference is the seed's is not known."
    if next(iter(found.values())).looks:
        return "Prompts were drawn until it sufficed, so nothing is inferred of other seeds than these."
    if most < FEWEST_SEEDS:
        return (
            f"Nothing is inferred of other seeds than these: that takes {FEWEST_SEEDS} of the same settings at least."
        )
    return (
        "Intervals and p are of the settings: of what other seeds, too, would come to on other prompts. Both are "
        "drawn at random, two crossed ways: reach\N{SUPERSCRIPT TWO} = t(S \N{MINUS SIGN} 1)\N{SUPERSCRIPT TWO} "
        "\N{MULTIPLICATION SIGN} variance that the seeds bring + (reach over prompts)\N{SUPERSCRIPT TWO} (Howe 1974). "
        f"Of fewer than {plural(FEWEST_SEEDS, 'seed')} nothing is inferred."
    )


def sentences(groups: Sequence[SweptGroup], sweep: Sweep) -> list[str]:
    """For the summary, most important first."""
    said = []
    primary = next((metric.facts for one in groups for metric in one.metrics if metric.primary), None)
    inferred = [one for one in groups if primary and (mine := one.metric(primary.name)) and mine.outcome is not None]
    if primary is not None and inferred:
        better = [one.group.name for one in inferred if _outcome(one, primary.name) == "better"]
        said.append(
            f"Over seeds, by {primary.title}, better than the base: {', '.join(better)}."
            if better
            else f"Over seeds, by {primary.title}, no setting was shown to be better than the base."
        )
    if sweep.failed:
        said.append(f"Not trained: {', '.join(one.name for one in sweep.failed)}; the reasons stand below.")
    return said


def _outcome(one: SweptGroup, name: str) -> MetricOutcome | None:
    metric = one.metric(name)
    return None if metric is None else metric.outcome


def seed_for(comparison: Comparison, name: str) -> list[int]:
    """As `findings.seed_of`, apart from it: what is drawn here is another thing."""
    return [comparison.seed, zlib.crc32(name.encode()), 1]
