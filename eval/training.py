"""What a report shows of a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.errors import EvalError
from eval.gallery import Thumbnail, thumbnail
from eval.images import Picture

HISTORY, FACTS, VALIDATION = "history.jsonl", "training.json", "validation"
Row = Mapping[str, float | None]


@dataclass(frozen=True)
class ValidationRow:
    """One validation prompt's pictures, by optimizer step."""

    prompt: str
    pictures: list[tuple[int, Thumbnail]]


@dataclass(frozen=True)
class Measured:
    """A validation loss."""

    step: int
    loss: float


@dataclass(frozen=True)
class HeldOut:
    """The loss on pictures that were never trained on."""

    pictures: int
    base: float | None
    """Before the first step."""
    best: Measured
    last: Measured
    compared_with: str
    """The training loss that is weighed alike."""


@dataclass(frozen=True)
class Training:
    history: list[Row]
    """A line an optimizer step; what was not finite is None."""
    base: Row
    """What was measured before the first step."""
    validation: list[ValidationRow]
    skipped_steps: int
    """Steps that were left out because their loss or gradient was not finite."""
    held_out: HeldOut | None
    exported_step: int | None
    """Whose weights the candidate has; None where the run does not say."""
    exported_why: str

    @property
    def steps(self) -> int:
        return len(self.history)

    def values(self, name: str) -> tuple[list[float], list[float]]:
        """Steps at which a figure is there and finite, and its values."""
        points = [(row["step"] or 0, value) for row in self.history if (value := row.get(name)) is not None]
        return [step for step, _ in points], [value for _, value in points]


def read_training(folder: Path, max_side_px: int) -> Training:
    """Raises EvalError when the folder is no training run."""
    path = folder / HISTORY
    if not path.is_file():
        raise EvalError(f"{folder.name}: expected {HISTORY} in it; this is not a training run")
    lines: list[Row] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    facts_path = folder / FACTS
    facts = json.loads(facts_path.read_text(encoding="utf-8")) if facts_path.is_file() else {}
    exported = facts.get("exported", {})
    return Training(
        history=[row for row in lines if row["step"] != 0],
        base=next((row for row in lines if row["step"] == 0), {}),
        validation=_validation(folder, facts.get("validation_prompts", []), max_side_px),
        skipped_steps=facts.get("skipped_steps", 0),
        held_out=_held_out(facts.get("validation_loss")),
        exported_step=exported.get("step"),
        exported_why=exported.get("why", ""),
    )


def _held_out(facts: Mapping[str, Any] | None) -> HeldOut | None:
    if not facts or facts["best"] is None:
        return None
    name = "loss" if facts["weighted"] else "unweighted"
    return HeldOut(facts["pictures"], facts["base"], Measured(**facts["best"]), Measured(**facts["last"]), name)


def reading(training: Training) -> list[str]:
    """What the curves say, in sentences."""
    sentences, held_out = [], training.held_out
    if training.exported_step is not None:
        sentences.append(f"The candidate has the weights of step {training.exported_step:,}: {training.exported_why}.")
    if held_out is None:
        return sentences
    best, last, base = held_out.best, held_out.last, held_out.base
    pictures = "1 held-out picture" if held_out.pictures == 1 else f"{held_out.pictures} held-out pictures"
    found = f"The loss on {pictures} was lowest at step {best.step:,}: {best.loss:.4g}"
    sentences.append(
        found + ("." if base is None else f", against {base:.4g} of the base ({_change(base, best.loss)}).")
    )
    if base is not None and best.loss >= base:
        sentences.append("No step was better than the base on pictures that it had not seen.")
    elif last.step == best.step:
        sentences.append("It was still falling when it was last measured: more steps may help.")
    else:
        sentences.append(_since_the_best(training, held_out))
    return sentences


def _since_the_best(training: Training, held_out: HeldOut) -> str:
    best, last = held_out.best, held_out.last
    rise = f"Since then it rose to {last.loss:.4g} ({_change(best.loss, last.loss)}) at step {last.step:,}"
    then, now = (_around(training, held_out.compared_with, step) for step in (best.step, last.step))
    if then is None or now is None:
        return f"{rise}."
    if now < then:
        over_fitting = f"{rise}, while the training loss fell from {then:.4g} to {now:.4g}: a sign of over-fitting"
        if training.exported_step == best.step:
            return f"{over_fitting}, from before which the candidate is."
        return f"{over_fitting}. Fewer steps, a lower learning rate, more pictures or training.export: best help."
    return f"{rise}, and the training loss did not fall either: the learning rate may be too high."


def _around(training: Training, name: str, step: int) -> float | None:
    """Mean of a training figure over the sixth of the run that ends with `step`."""
    width = max(1, training.steps // 6)
    steps, values = training.values(name)
    near = [value for at, value in zip(steps, values, strict=True) if step - width < at <= step]
    return fmean(near) if near else None


def _change(before: float, after: float) -> str:
    percent = 100 * (after / before - 1)
    return f"{percent:+.1f} %".replace("-", "\N{MINUS SIGN}")


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
