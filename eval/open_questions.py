"""What is still to be asked about image sets, in parts that can be answered anywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from pathlib import Path

from eval.asking import Progress, ask_all
from eval.questions import Ask
from eval.samples import read_set, samples, units
from eval.score import Weights, judges_of
from eval.scorers.base import Metric


class OpenQuestions:
    """The answers from which `score_metrics` makes its table, by numbers: of an instance picture, or of all pictures of
    a prompt, which are decoded once.

    Questions that read other answers are not among them, nor those of metrics that cannot be measured.
    """

    def __init__(
        self,
        *,
        metrics: Sequence[Metric],
        weights: Mapping[str, Weights],
        sets: Mapping[str, Path],
        references: Path | None,
        cells: MutableMapping[str, bytes],
        device: str,
    ) -> None:
        """Arguments as of `score_metrics`, which raises the same EvalErrors."""
        self._cells = cells
        images = {model_id: read_set(model_id, folder) for model_id, folder in sets.items()}
        judges, _ = judges_of(metrics, weights, references, cells, device)
        asked = {metric.id: list(samples(metric, images)) for metric in metrics if metric.id in judges}
        self._units: list[dict[str, Ask]] = []
        seen: set[str] = set()
        for unit in units(judges, asked):
            mine = {ask.key: ask for ask in unit if not ask.question.reads_answers}
            if new := {key: ask for key, ask in mine.items() if key not in seen}:
                self._units.append(new)
                seen.update(new)

    def has(self, number: int) -> bool:
        return all(key in self._cells for key in self._units[number])

    def missing(self, device: str) -> list[list[int]]:
        """Numbers of which an answer is not there, one by one: networks fill their batches over all of them."""
        return [[number] for number in range(len(self._units)) if not self.has(number)]

    def fill(self, numbers: Collection[int], device: str, progress: Progress) -> int:
        """Have them answered; returns of how many an answer was not there and now is.

        What is wrong with a network or a picture is left to who scores in earnest. The device is the one that was given
        on creation.
        """
        missing = [number for number in numbers if not self.has(number)]
        ask_all([list(self._units[number].values()) for number in missing], self._cells, progress)
        return sum(self.has(number) for number in missing)
