"""A score artifact, read back, and what of its pictures a reader should know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.pairing import Key
from eval.result import Health, MetricFacts, Unscored
from eval.score import METRICS_FILE
from eval.table import Row, read_pictures, read_scores


@dataclass(frozen=True)
class Scored:
    """What a score artifact holds."""

    rows: Sequence[Row]
    facts: Mapping[str, MetricFacts]
    truncated: Mapping[str, Sequence[str]]
    not_run: Mapping[str, str]
    pictures: Mapping[str, Mapping[Key, str]]


def read_scored(evaluation: EvaluationConfig, folder: Path) -> Scored:
    """Rows in the order of the configuration's metrics."""
    order = {metric.id: place for place, metric in enumerate(evaluation.metrics)}
    facts, truncated, not_run = {}, {}, {}
    for described in json.loads((folder / METRICS_FILE).read_text(encoding="utf-8")):
        shortened, reason = described.pop("truncated_prompts"), described.pop("not_run")
        mine = MetricFacts.model_validate(described)
        facts[mine.name], truncated[mine.name] = mine, shortened
        if reason:
            not_run[mine.name] = reason
    if unknown := sorted(facts.keys() - order.keys()):
        raise EvalError(f"scores of metric {unknown[0]!r} were given; the evaluation has {sorted(order)}")
    if missing := sorted(order.keys() - facts.keys()):
        raise EvalError(f"no scores of metric {', '.join(missing)}; the evaluation asks for {sorted(order)}")
    # stable: pictures keep their order
    rows = sorted(read_scores(folder), key=lambda row: (order[row.metric_id], row.model_id))
    return Scored(rows, facts, truncated, not_run, read_pictures(folder))


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
        repeated_pictures={
            "base": len(base) - len(set(base.values())),
            "candidate": len(candidate) - len(set(candidate.values())),
        },
        identical_pairs=sum(candidate.get(key) == digest for key, digest in base.items()),
    )
