"""A score artifact, read back, and what of its pictures a reader should know."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.pairing import Key, Paired, Storyboards, paired_scores, storyboards_for, unit_of
from eval.result import Health, MetricFacts, Unscored
from eval.samples import PAIR
from eval.score import METRICS_FILE
from eval.table import Row, read_pictures, read_scores, read_storyboards


@dataclass(frozen=True)
class Scored:
    """What a score artifact holds."""

    rows: Sequence[Row]
    facts: Mapping[str, MetricFacts]
    truncated: Mapping[str, Sequence[str]]
    left_out: Mapping[str, Mapping[str, int]]
    not_run: Mapping[str, str]
    pictures: Mapping[str, Mapping[Key, str]]
    storyboards: Storyboards

    def rows_of(self, name: str) -> list[Row]:
        return [row for row in self.rows if row.metric_id == name]

    def paired(self, name: str) -> Paired:
        """A metric's scores, base and candidate side by side. Raises EvalError where nothing has both."""
        return paired_scores(self.rows, name, self.units_of(name))

    def units_of(self, name: str) -> Storyboards:
        """What of a metric's rows belongs to which storyboard."""
        return storyboards_for(self.facts[name].scored, self.storyboards)

    def units(self) -> set[str]:
        """What there are pictures of: prompts, and storyboards as wholes."""
        return {unit_of(prompt, self.storyboards) for mine in self.pictures.values() for prompt, _ in mine}


def read_scored(evaluation: EvaluationConfig, folder: Path) -> Scored:
    """Rows in the order of the configuration's metrics."""
    order = {metric.id: place for place, metric in enumerate(evaluation.metrics)}
    facts, truncated, left_out, not_run = {}, {}, {}, {}
    for described in json.loads((folder / METRICS_FILE).read_text(encoding="utf-8")):
        shortened, without, reason = (described.pop(name) for name in ("truncated_prompts", "left_out", "not_run"))
        mine = MetricFacts.model_validate(described)
        facts[mine.name], truncated[mine.name], left_out[mine.name] = mine, shortened, without
        if reason:
            not_run[mine.name] = reason
    if unknown := sorted(facts.keys() - order.keys()):
        raise EvalError(f"scores of metric {unknown[0]!r} were given; the evaluation has {sorted(order)}")
    if missing := sorted(order.keys() - facts.keys()):
        raise EvalError(f"no scores of metric {', '.join(missing)}; the evaluation asks for {sorted(order)}")
    # stable: pictures keep their order
    rows = sorted(read_scores(folder), key=lambda row: (order[row.metric_id], row.model_id))
    return Scored(rows, facts, truncated, left_out, not_run, read_pictures(folder), read_storyboards(folder))


def health_of(found: Scored, not_run: Set[str]) -> Health:
    """`not_run`: metrics that gave nothing at all; their reason stands beside them, not once for every picture."""
    base, candidate = (found.pictures.get(model_id, {}) for model_id in ("base", "candidate"))
    absent = [
        Unscored(prompt_id=prompt, replicate=replicate, model_id=model_id, metric="all", reason="not in the image set")
        for model_id, mine, other in (("base", base, candidate), ("candidate", candidate, base))
        for prompt, replicate in other
        if (prompt, replicate) not in mine
    ]
    failed = [
        Unscored(
            prompt_id=row.prompt_id,
            replicate=row.replicate,
            model_id=row.model_id,
            metric=row.metric_id,
            reason=row.reason,
        )
        for row in found.rows
        if not row.is_scored and row.prompt_id and row.metric_id not in not_run  # a whole set's reason has no prompt
    ]
    return Health(
        pictures={"base": len(base), "candidate": len(candidate)},
        unscored=(*absent, *failed),
        truncated_prompts={name: tuple(prompts) for name, prompts in found.truncated.items() if prompts},
        left_out={name: dict(counts) for name, counts in found.left_out.items() if counts},
        repeated_pictures={
            "base": len(base) - len(set(base.values())),
            "candidate": len(candidate) - len(set(candidate.values())),
        },
        identical_pairs=sum(candidate.get(key) == digest for key, digest in base.items()),
    )


def nothing_scored(facts: MetricFacts, rows: Sequence[Row]) -> str:
    """Why there is nothing to compare; empty where there is something."""
    if facts.scored == "set":
        return "" if any(row.is_scored for row in rows) else set_reasons(rows)
    sides: dict[str, set[Key]] = defaultdict(set)
    for row in rows:
        if row.is_scored:
            sides[row.model_id].add(row.key)
    if sides[PAIR] or sides["base"] & sides["candidate"]:
        return ""
    reasons = "; ".join(sorted({row.reason for row in rows if row.reason})) or "no rows"
    whats = {"pair": "no pair of pictures", "versus": "no pair of pictures", "board": "no storyboard"}
    what = whats.get(facts.scored, "no prompt")
    return f"{what} is scored on both sides ({reasons})"


def set_reasons(rows: Sequence[Row]) -> str:
    """Why sides have no number; what holds for both is said once."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.reason:
            reasons[row.reason].append(row.model_id)
    return "; ".join(f"{' and '.join(sorted(sides))}: {reason}" for reason, sides in reasons.items())
