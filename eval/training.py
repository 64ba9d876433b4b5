"""What a report shows of a training run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import EvalError
from eval.gallery import Thumbnail, thumbnail
from eval.images import Picture

HISTORY, FACTS, VALIDATION = "history.jsonl", "training.json", "validation"


@dataclass(frozen=True)
class ValidationRow:
    """One validation prompt's pictures, by optimizer step."""

    prompt: str
    pictures: list[tuple[int, Thumbnail]]


@dataclass(frozen=True)
class Training:
    history: list[dict[str, float | None]]
    """By optimizer step; what was not finite is None."""
    validation: list[ValidationRow]
    skipped_steps: int
    """Steps that were left out because their loss or gradient was not finite."""


def read_training(folder: Path, max_side_px: int) -> Training:
    """Raises EvalError when the folder is no training run."""
    path = folder / HISTORY
    if not path.is_file():
        raise EvalError(f"{folder.name}: expected {HISTORY} in it; this is not a training run")
    history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    facts_path = folder / FACTS
    facts = json.loads(facts_path.read_text(encoding="utf-8")) if facts_path.is_file() else {}
    validation = _validation(folder, facts.get("validation_prompts", []), max_side_px)
    return Training(history, validation, facts.get("skipped_steps", 0))


def _validation(folder: Path, prompts: Sequence[str], max_side_px: int) -> list[ValidationRow]:
    rows: dict[int, list[tuple[int, Thumbnail]]] = {}
    for file in (folder / VALIDATION).glob("*-*.png"):
        step, _, place = file.stem.partition("-")
        if shown := thumbnail(Picture(file, file.name), max_side_px):
            rows.setdefault(int(place), []).append((int(step), shown))
    return [
        ValidationRow(prompts[place] if place < len(prompts) else "", sorted(rows[place], key=lambda item: item[0]))
        for place in sorted(rows)
    ]
