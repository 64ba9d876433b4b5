"""The trainer with the evaluation's metrics: `python -m tasks.train_process JOB.json SCORERS.json`.

It is `sdxl_core.train` otherwise: the same events, exit codes and ways to launch it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from eval.errors import EvalError
from eval.images import GeneratedImage
from eval.means import drawn_picture, mean_scores
from eval.score import Weights
from sdxl_core import train
from sdxl_core.errors import UserError
from sdxl_core.exit_codes import EXIT_USER_ERROR
from sdxl_core.scores import MeanScore, PictureScorer, ValidationPicture
from tasks.cells import DiskCells
from tasks.validation_scores import METRICS, WHERE, ScorersFile


class MetricScorer:
    """Scores validation pictures as the stage `scores` does; networks are loaded for it and let go of."""

    def __init__(self, scorers: ScorersFile) -> None:
        self.scorers = scorers
        self.metrics = METRICS.validate_python(scorers.metrics)
        self.weights = {
            name: Weights({field: Path(place) for field, place in found["places"].items()}, found["digests"])
            for name, found in scorers.weights.items()
        }
        self.cells: MutableMapping[str, bytes] = {} if scorers.cells is None else DiskCells(scorers.cells)
        self.with_base = any(metric.scored == "pair" for metric in self.metrics)

    def __call__(
        self, pictures: Sequence[ValidationPicture], base: Sequence[ValidationPicture]
    ) -> Mapping[str, MeanScore]:
        try:
            found = mean_scores(
                metrics=self.metrics,
                weights=self.weights,
                pictures=_read(pictures),
                base=_read(base) if self.with_base else [],
                references=self.scorers.references,
                cells=self.cells,
                device=self.scorers.device,
            )
        except EvalError as problem:
            raise UserError(f"{WHERE}: {problem}") from problem
        return {name: MeanScore(mean.value, mean.pictures) for name, mean in found.items()}


def _read(pictures: Sequence[ValidationPicture]) -> list[GeneratedImage]:
    return [
        drawn_picture(
            picture.file,
            prompt=picture.prompt,
            place=picture.place,
            replicate=picture.replicate,
            seed=picture.seed,
        )
        for picture in pictures
    ]


def scorer(file: Path) -> PictureScorer:
    """Raises FileNotFoundError or ValidationError where the file is not what it should be."""
    return MetricScorer(ScorersFile.model_validate_json(file.read_text(encoding="utf-8")))


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m tasks.train_process JOB.json SCORERS.json", file=sys.stderr)
        return EXIT_USER_ERROR
    job, scorers = arguments
    return train.main([job], lambda _: scorer(Path(scorers)))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
