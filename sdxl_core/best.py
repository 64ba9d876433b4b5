"""The step with the lowest validation loss, from a run's history. Imports no torch.

Who is best needs no memory of its own: the lines of history.jsonl are part of a run's state, in every bundle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.bundles import bundle_name, damage

VALIDATION_LOSS = "validation/loss"
HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True)
class Measured:
    step: int
    loss: float


def validation_losses(history: str) -> list[Measured]:
    """Every finite validation loss in the lines of a history, oldest first; step 0 is the base's."""
    rows = [json.loads(line) for line in history.splitlines() if VALIDATION_LOSS in line]
    return [Measured(row["step"], row[VALIDATION_LOSS]) for row in rows if row[VALIDATION_LOSS] is not None]


def best_of(history: str, after: int) -> Measured | None:
    """The lowest of the steps after `after`, the first among equals."""
    found = [measured for measured in validation_losses(history) if measured.step > after]
    return min(found, key=lambda measured: (measured.loss, measured.step), default=None)


def best_bundle(bundle: Path, after: int) -> Path | None:
    """Where the best step's bundle has to be, going by the history in a whole bundle of the same run."""
    best = best_of((bundle / HISTORY_FILE).read_text(encoding="utf-8"), after)
    return None if best is None else bundle.with_name(bundle_name(best.step))


def damage_or_lost_best(bundle: Path, after: int) -> str | None:
    """What is wrong with a bundle, or with the one of its best step, without which the best cannot be exported."""
    if problem := damage(bundle):
        return problem
    best = best_bundle(bundle, after)
    if best is None or best == bundle:
        return None
    problem = damage(best)
    return problem and f"{best.name}, the best of its steps, is not whole: {problem}"
