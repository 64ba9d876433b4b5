"""Which pairs of pictures the report shows, and in which tabs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.config import GalleryConfig
from eval.images import GeneratedImage
from eval.pairing import Key, Paired
from eval.result import Comparison, JudgedMetric, MetricFacts

TABS = {
    "wins": "Biggest wins",
    "losses": "Biggest losses",
    "disagreements": "Scorers disagree",
    "sample": "Random sample",
    "problems": "Look at these",
    "all": "All",
}


@dataclass(frozen=True)
class Card:
    """One prompt and seed: the base's picture beside the candidate's."""

    base: GeneratedImage
    candidate: GeneratedImage
    places: dict[str, int]
    """Tab -> position in it."""

    @property
    def is_chosen(self) -> bool:
        """Stands in a tab for a reason of its own."""
        return bool(self.places.keys() - {"all"})


def choose(
    base: Sequence[GeneratedImage],
    candidate: Sequence[GeneratedImage],
    found: Comparison,
    paired: Mapping[str, Paired],
    sizes: GalleryConfig,
) -> list[Card]:
    """A pair in several tabs is one card; those that stand in `all` alone come last.

    `paired`: the judged metrics' scores by name.
    """
    others = {image.key: image for image in candidate}
    pairs = {image.key: (image, others[image.key]) for image in base if image.key in others}
    gains = {metric.facts.name: _improvement_by_key(metric, paired[metric.facts.name]) for metric in found.judged}
    tabs: dict[str, list[Key]] = {"wins": [], "losses": []}
    if found.leading is not None:
        tabs = _extremes(gains[found.leading.facts.name], pairs, sizes)
    tabs["disagreements"] = _disagreements(found, gains, pairs)[: sizes.disagreements]
    tabs["sample"] = random.Random(sizes.seed).sample(sorted(pairs), min(sizes.sample, len(pairs)))
    tabs["problems"] = _problems(found, paired, pairs)[: sizes.problems]
    chosen = {key for keys in tabs.values() for key in keys}
    shown = chosen.union([key for key in pairs if key not in chosen][: sizes.rest])
    tabs["all"] = [key for key in pairs if key in shown]
    places: dict[Key, dict[str, int]] = {}
    for tab in TABS:
        for place, key in enumerate(tabs[tab]):
            places.setdefault(key, {})[tab] = place
    return [Card(*pairs[key], places=mine) for key, mine in places.items()]


def scored_as(pair: Key, facts: MetricFacts) -> Key | None:
    """The key of the score that a metric gives a pair: its own, or all its prompt's; none of a storyboard's."""
    return {"picture": pair, "versus": pair, "prompt": (pair[0], 0)}.get(facts.scored)


def _improvement_by_key(metric: JudgedMetric, paired: Paired) -> dict[Key, float]:
    """Positive is better."""
    return dict(zip(paired.keys, (metric.facts.direction * paired.delta).tolist(), strict=True))


def _extremes(gain: Mapping[Key, float], pairs: Iterable[Key], sizes: GalleryConfig) -> dict[str, list[Key]]:
    """Only true gains are wins, only true losses are losses."""
    ranked = sorted(gain, key=lambda key: (-gain[key], key))
    wins = [key for key in ranked if gain[key] > 0][: sizes.wins]
    losses = [key for key in reversed(ranked) if gain[key] < 0][: sizes.losses]
    return {"wins": _shown_pairs(wins, pairs), "losses": _shown_pairs(losses, pairs)}


def _shown_pairs(keys: Iterable[Key], pairs: Iterable[Key]) -> list[Key]:
    """The pairs themselves; where a prompt was scored as a whole, its first pair that both sides have."""
    known, firsts = set(pairs), {prompt: (prompt, replicate) for prompt, replicate in sorted(pairs, reverse=True)}
    return [key if key in known else firsts[key[0]] for key in keys if key in known or key[0] in firsts]


def _disagreements(
    found: Comparison, gains: Mapping[str, Mapping[Key, float]], pairs: Mapping[Key, object]
) -> list[Key]:
    """Pairs that one scorer finds clearly better and another clearly worse, each measured by its own spread."""
    marks: dict[Key, list[float]] = {key: [] for key in pairs}
    for metric in found.judged:
        mine = gains[metric.facts.name]
        spread = float(np.std(list(mine.values())))
        if metric.facts.scored not in ("picture", "versus") or spread == 0:
            continue
        for key in mine.keys() & marks.keys():
            if abs(mine[key]) > metric.facts.tie:
                marks[key].append(mine[key] / spread)
    strength = {key: min(max(mine), -min(mine)) for key, mine in marks.items() if mine}
    return sorted((key for key in strength if strength[key] > 0), key=lambda key: (-strength[key], key))


def _problems(found: Comparison, paired: Mapping[str, Paired], pairs: Mapping[Key, object]) -> list[Key]:
    """Pairs with a score missing, a prompt cut short, or the candidate on the bad side of a yes or no."""
    voted = {metric.facts.name for metric in found.judged if metric.facts.scored == "versus"}  # nobody need see all
    seen = {(item.prompt_id, item.replicate) for item in found.health.unscored if item.metric not in voted}
    cut = {prompt for prompts in found.health.truncated_prompts.values() for prompt in prompts}
    for metric in found.judged:
        if metric.facts.binary and metric.facts.scored == "picture":
            mine, bad = paired[metric.facts.name], 0.0 if metric.facts.direction > 0 else 1.0
            seen |= {key for key, value in zip(mine.keys, mine.candidate.tolist(), strict=True) if value == bad}
    return [key for key in pairs if key in seen or key[0] in cut]
