"""Mean scores of a model's pictures, for whoever watches a model change."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from eval.errors import EvalError
from eval.images import GeneratedImage, open_rgb, pixel_digest
from eval.samples import PAIR
from eval.score import Weights, measure
from eval.scorers.base import Metric


@dataclass(frozen=True)
class Mean:
    """Over the pictures that have a score."""

    value: float
    """NaN where none has."""
    pictures: int


def drawn_picture(file: Path, *, prompt: str, place: int, replicate: int, seed: int) -> GeneratedImage:
    """A picture of no image set. `place` tells prompts of the same text apart.

    Raises:
        EvalError: the file is not a readable picture.
    """
    if not file.is_file():
        raise EvalError(f"expected a picture, got none at {file}")
    return GeneratedImage(
        path=file,
        identity=pixel_digest(open_rgb(file)),
        prompt_id=f"{place:02d}",
        prompt=prompt,
        category="",
        replicate=replicate,
        seed=seed,
    )


def mean_scores(
    *,
    metrics: Sequence[Metric],
    weights: Mapping[str, Weights],
    pictures: Sequence[GeneratedImage],
    base: Sequence[GeneratedImage],
    references: Path | None,
    cells: MutableMapping[str, bytes],
    device: str,
) -> dict[str, Mean]:
    """By metric id; each picture's score is what the score stage gives it. `base` may be empty where no metric is of
    pairs.

    Raises:
        EvalError: a metric could not be measured at all.
    """
    images = {"base": base, "candidate": pictures} if base else {"candidate": pictures}
    found = measure(metrics=metrics, weights=weights, images=images, references=references, cells=cells, device=device)
    for name, reason in found.not_run.items():
        raise EvalError(f"{name}: {reason}")
    means = {}
    for metric in metrics:
        mine = [row for row in found.rows if row.metric_id == metric.id and row.model_id in ("candidate", PAIR)]
        scored = [row.value for row in mine if row.is_scored]
        means[metric.id] = Mean(fmean(scored) if scored else float("nan"), len(scored))
    return means
