"""A/A: the base against itself, from other noise. Does an evaluation find nothing where nothing is?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from eval.compare import compared
from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.result import Comparison
from eval.scored import Scored, read_scored
from eval.table import Row


def against_itself(evaluation: EvaluationConfig, scores: Path) -> Iterator[Comparison]:
    """One comparison for every two replicates of a prompt: the first as base, the second as candidate.

    Only metrics that judge single pictures take part; the others compare two pictures from one noise, or need them all.

    Args:
        evaluation: as it is configured; what is primary decides each headline.
        scores: score artifact of the base's pictures, with an even number of replicates.

    Raises:
        EvalError: no metric judges single pictures, or none of them was run.
    """
    found = read_scored(evaluation, scores)
    judging = [
        metric
        for metric in evaluation.metrics
        if metric.scored == "picture" and metric.direction != 0 and metric.id not in found.not_run
    ]
    if not judging:
        raise EvalError("no metric of this evaluation that judges single pictures was run, so there is nothing to test")
    alone = evaluation.model_copy(update={"metrics": tuple(judging), "gates": (), "stop": "fixed", "strict": False})
    for first in range(0, _replicates(found), 2):
        yield compared(alone, _as_two_models(found, {metric.id for metric in judging}, first))


def _replicates(found: Scored) -> int:
    return len({replicate for _, replicate in found.pictures["base"]})


def _as_two_models(found: Scored, metrics: set[str], first: int) -> Scored:
    sides = {first: "base", first + 1: "candidate"}

    def side(row: Row) -> Row:
        return replace(row, model_id=sides[row.replicate], replicate=0, seed=None)

    rows = [side(row) for row in found.rows if row.metric_id in metrics and row.replicate in sides]
    pictures = {
        model_id: {
            (prompt, 0): digest for (prompt, mine), digest in found.pictures["base"].items() if mine == replicate
        }
        for replicate, model_id in sides.items()
    }
    facts = {name: facts for name, facts in found.facts.items() if name in metrics}
    return replace(found, rows=rows, facts=facts, truncated={}, left_out={}, not_run={}, pictures=pictures)
