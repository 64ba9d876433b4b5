"""Scores during training: metrics of the evaluation that are measured on validation pictures too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from eval.config import EvaluationConfig
from eval.scorers import MetricConfig
from eval.scorers.base import Metric
from sdxl_core.errors import did_you_mean
from sdxl_core.scores import ScoreFacts
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_config.best_step import BY_VALIDATION_LOSS
from tasks.digests import digest_json
from tasks.errors import ConfigError
from tasks.manifest import Frozen, Json
from tasks.weights import MetricWeights

METRICS: TypeAdapter[tuple[MetricConfig, ...]] = TypeAdapter(tuple[MetricConfig, ...])
WHERE = "training.validation.scores"
NOT_WATCHED = {
    "set": "it is one number of a whole set of pictures, and validation pictures are too few for one",
    "versus": "it goes by what people said, and nobody is asked about validation pictures",
    "prompt": "it compares many pictures of the same prompt, and validation pictures are too few for that",
    "board": "it compares the frames of a storyboard, and validation prompts make none",
}
"""Why metrics of a kind cannot be measured on validation pictures."""


class ScorersFile(Frozen):
    """What a trainer's process is told of its scorers; see `tasks.train_process`."""

    metrics: tuple[dict[str, Json], ...]
    weights: dict[str, dict[str, dict[str, str]]]
    """By metric: `places` and `digests`, by weight or picture field."""
    references: Path | None = None
    """Dataset artifact with the instance pictures."""
    cells: Path | None = None
    """Folder of answers that are known; None: they are kept in memory."""
    device: str = "auto"


@dataclass(frozen=True)
class Scorers:
    """The metrics, and what they measure with."""

    metrics: tuple[Metric, ...]
    weights: Mapping[str, MetricWeights]

    @property
    def wants_instances(self) -> bool:
        return any(metric.wants_instances for metric in self.metrics)

    def identity(self) -> dict[str, Json]:
        """By metric, all that decides the score of a picture but the instance pictures, and which step is the best."""
        return {
            metric.id: {
                "metric": metric.identity(),
                "direction": metric.direction,
                "weights": dict(self.weights[metric.id].digests),
            }
            for metric in self.metrics
        }

    def facts(self) -> dict[str, ScoreFacts]:
        known = self.identity()
        return {
            metric.id: ScoreFacts(
                title=metric.full_title,
                unit=metric.unit,
                decimals=metric.decimals,
                direction=metric.direction,
                with_base=metric.scored == "pair",
                digest=digest_json(known[metric.id]),
            )
            for metric in self.metrics
        }

    def file(self) -> ScorersFile:
        return ScorersFile(
            metrics=tuple(metric.model_dump(mode="json") for metric in self.metrics),
            weights={
                name: {"places": dict(found.places), "digests": dict(found.digests)}
                for name, found in self.weights.items()
            },
        )


def check_scores(training: TrainingConfig, evaluation: EvaluationConfig) -> None:
    """Refuse scores that are no metrics of the evaluation, or cannot be measured on validation pictures.

    Raises:
        ConfigError: naming them.
    """
    metrics = {metric.id: metric for metric in evaluation.metrics}
    for name in _names(training):
        if name not in metrics:
            choices = [known for known, metric in metrics.items() if metric.scored not in NOT_WATCHED]
            fix = did_you_mean(name, choices) or "Add it there, with its weights"
            raise ConfigError.about(
                WHERE, expected=f"metrics of evaluation.metrics ({', '.join(choices)})", got=name, fix=fix
            )
        if reason := NOT_WATCHED.get(metrics[name].scored):
            raise ConfigError(f"{WHERE}: {name} cannot be measured while training: {reason}; leave it out")
    by = training.best_by
    if training.export == "best" and by != BY_VALIDATION_LOSS and metrics[by].direction == 0:
        judges = [name for name in _names(training) if metrics[name].direction]
        raise ConfigError.about(
            "training.best_by",
            expected=f"a score that judges ({', '.join(judges) or 'none of them does'}), or validation_loss",
            got=f"{by}, which only describes pictures",
        )


def locate_scorers(
    training: TrainingConfig, evaluation: EvaluationConfig, weights: Mapping[str, MetricWeights]
) -> Scorers | None:
    """None where nothing is scored while training.

    Raises:
        ConfigError: a metric's weights or packages are not there.
    """
    names = _names(training)
    for name in names:
        if missing := weights[name].missing:
            raise ConfigError(f"{WHERE}: {name} cannot be measured: {missing}. Get it, or leave {name} out of scores")
    metrics = {metric.id: metric for metric in evaluation.metrics}
    return Scorers(tuple(metrics[name] for name in names), {name: weights[name] for name in names}) if names else None


def _names(training: TrainingConfig) -> tuple[str, ...]:
    return () if training.validation is None else training.validation.scores
