"""How near generated pictures come to the instance pictures, and how near those come to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.pairing import Key
from eval.result import Comparison, MetricFacts
from eval.table import INSTANCES, Row

KIND = "nearest_instance"


@dataclass(frozen=True)
class Near:
    """A generated picture and the instance picture that it is nearest to."""

    prompt_id: str
    replicate: int
    cosine: float
    instance: str
    """Identity of the instance picture."""
    is_copy: bool
    """Nearer than any instance picture is to another, and than any picture of a base that never saw them."""
    base_cosine: float | None
    """Of the base's picture of the same prompt and replicate, to its own nearest one."""


@dataclass(frozen=True)
class Side:
    """One model's pictures."""

    scored: int
    beyond: int
    """How many are nearer to an instance picture than any of those is to another."""
    cosines: tuple[float, ...]
    """Ascending."""


@dataclass(frozen=True)
class Nearness:
    facts: MetricFacts
    instances: tuple[float, ...]
    """Ascending: how near each instance picture comes to the nearest other one; empty where there is only one."""
    base: Side
    candidate: Side
    pairs: tuple[Near, ...]
    """The candidate's pictures, nearest first."""

    @property
    def usual_share(self) -> float | None:
        """How often one more picture of the same kind as the n instance pictures would be nearer to one of them than
        any two of them are to each other.

        It would have to be one of the closest two of n + 1, and each of these is so with the same chance: 2 / (n + 1).
        """
        return 2 / (len(self.instances) + 1) if self.instances else None

    @property
    def copies(self) -> int:
        """Of the candidate's pictures."""
        return sum(pair.is_copy for pair in self.pairs)

    @property
    def is_too_near(self) -> bool:
        """More of the candidate's pictures look like copies than would of more pictures like the instance pictures."""
        return self.usual_share is not None and self.copies > self.usual_share * self.candidate.scored

    def document(self) -> dict[str, Any]:
        return {
            "metric": self.facts.name,
            "instances": None if not self.instances else [self.instances[0], self.instances[-1]],
            "usual_share": self.usual_share,
            "is_too_near": self.is_too_near,
            "base": {"scored": self.base.scored, "beyond": self.base.beyond},
            "candidate": {"scored": self.candidate.scored, "beyond": self.candidate.beyond, "copies": self.copies},
            "pairs": [asdict(pair) for pair in self.pairs],
        }


def nearness(found: Comparison, rows: Sequence[Row], base_is_untaught: bool) -> Nearness | None:
    """By the first such metric that there is; None without one. `base_is_untaught`: it never saw the instance pictures,
    so that its pictures too show how near one comes without copying."""
    known = [metric.facts for metric in found.measured if metric.facts.metric == KIND]
    if not known:
        return None
    facts = known[0]
    mine = [row for row in rows if row.metric_id == facts.name and row.is_scored]
    instances = tuple(sorted(row.value for row in mine if row.model_id == INSTANCES))
    limit = instances[-1] + facts.tie if instances else float("inf")
    base, candidate = ({row.key: row for row in mine if row.model_id == side} for side in ("base", "candidate"))
    unseen = max((row.value for row in base.values()), default=limit) if base_is_untaught else limit
    copied = max(limit, unseen)
    pairs = [
        Near(key[0], key[1], row.value, row.evidence, row.value > copied, base[key].value if key in base else None)
        for key, row in candidate.items()
    ]
    ordered = sorted(pairs, key=lambda pair: (-pair.cosine, pair.prompt_id, pair.replicate))
    return Nearness(facts, instances, _side(base, limit), _side(candidate, limit), tuple(ordered))


def _side(rows: Mapping[Key, Row], limit: float) -> Side:
    cosines = sorted(row.value for row in rows.values())
    return Side(len(cosines), sum(cosine > limit for cosine in cosines), tuple(cosines))
