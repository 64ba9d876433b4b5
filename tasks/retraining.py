"""Whether there is anything to retrain, what a candidate is held against, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.config import EvaluationConfig
from sdxl_core.training_config import NoAdapterConfig, TrainingConfig
from tasks.config import PipelineConfig
from tasks.digests import digest_json
from tasks.errors import ConfigError
from tasks.experiment import Experiment, prepare_experiment
from tasks.manifest import Json
from tasks.references import TRAINED
from tasks.registry import Registry
from tasks.store import ArtifactStore
from tasks.versions import Version

Outcome = Literal["promoted", "rejected", "inconclusive", "nothing new"]
OF_VERDICT: dict[str, Outcome] = {"promote": "promoted", "reject": "rejected", "inconclusive": "inconclusive"}


@dataclass(frozen=True)
class Known:
    """Why there is nothing to do."""

    version: Version | None
    """Which one was made of the very same."""
    reason: str


def model_name(config: PipelineConfig) -> str:
    return config.retraining.model or config.name


def check_retraining(config: PipelineConfig) -> None:
    """Raises ConfigError where a configuration cannot say what is better, or judges something else than it trains."""
    evaluation = config.evaluation
    if not evaluation.gates:
        fix = "A candidate is promoted by what it has shown: see docs/statistics.md"
        raise ConfigError.about("evaluation.gates", expected="at least one gate, to retrain", got="none", fix=fix)
    if evaluation.candidates or evaluation.candidate != TRAINED:
        got = ", ".join(evaluation.references)
        raise ConfigError.about("evaluation.candidate", expected=f"{TRAINED}, to retrain", got=got)
    if evaluation.baseline != "base":
        fix = "What is in production is always a second one"
        raise ConfigError.about("evaluation.baseline", expected="base, to retrain", got=evaluation.baseline, fix=fix)
    if config.retraining.against_incumbent is not None:
        against_incumbent(config, "base")
    if config.retraining.warm_start and isinstance(config.training.adapter, NoAdapterConfig):
        raise ConfigError("retraining.warm_start: training.adapter none has no weights to begin with")
    if config.retraining.warm_start and config.training.start_from is not None:
        raise ConfigError(
            "retraining.warm_start: expected no training.adapter.start_from beside it; it takes its place"
        )


def asked(experiment: Experiment) -> str:
    """Digest of all that a candidate is made of and judged by: settings, and the content of data, base and scorers."""
    drawing, lesson = experiment.drawing, experiment.lesson
    content: dict[str, Json] = {
        "config": {k: v for k, v in experiment.shown_config.items() if k not in ("retraining", "export")},
        "dataset": experiment.fingerprint,
        "validation": "" if lesson is None else lesson.validation_fingerprint,
        "drawn": [] if drawing is None else [prompt.as_dict() for prompt in drawing.prompts],
        "model": experiment.model.digest(),
        "prompts": [prompt.as_dict() for prompt in experiment.looks[-1].prompts],
        "scorers": {name: dict(weights.digests) for name, weights in experiment.metric_weights.items()},
        "judges": {name: dict(weights.digests) for name, weights in experiment.judges.items()},
        "start": "" if lesson is None else lesson.continuing.start,
        "faces": [one.digest for one in (lesson.face_detector, lesson.face_model) if one] if lesson else [],
    }
    return digest_json(content)


def known(registry: Registry, name: str, what: str) -> Known | None:
    """Whether a candidate was made of the same before, whatever came of it: it would be the same again."""
    for version in registry.versions(name):
        if version.asked == what:
            return Known(
                version, f"version {version.number} was made of the same data and settings ({version.verdict})"
            )
    for event in registry.history(name):
        if event.what == "unchanged" and event.asked == what:
            return Known(None, event.reason)
    return None


def nothing_new(config: PipelineConfig, store: ArtifactStore, command: str) -> Known | None:
    """Whether a retraining would end at once, told without starting one."""
    registry, name = Registry(store), model_name(config)
    pushed = any(event.what == "pushed" for event in registry.since_it_moved(name))
    if unfinished_promotion(registry, name) is not None or (config.retraining.hub is not None and not pushed):
        return None
    return known(registry, name, asked(prepare_experiment(config, store, command)))


def unfinished_promotion(registry: Registry, name: str) -> Version | None:
    """The newest version, if it was to be promoted and the process died before it was."""
    versions, production = registry.versions(name), registry.production(name)
    newest = versions[-1] if versions else None
    if newest is None or newest.verdict != "promote" or registry.was_in_production(name, newest.number):
        return None
    return newest if newest.against == (None if production is None else production.number) else None


def warm(config: PipelineConfig, incumbent: Version | None, store: ArtifactStore) -> PipelineConfig:
    """The configuration, beginning with the incumbent's weights if that is wanted."""
    if incumbent is None or not config.retraining.warm_start:
        return config
    trained = store.find_whole(incumbent.training.kind, incumbent.training.key)
    place = store.path(trained or incumbent.release)
    adapter = config.training.adapter.model_copy(update={"start_from": str(place)})
    training = TrainingConfig.model_validate(
        config.training.model_dump(exclude_unset=True) | {"adapter": adapter.model_dump(exclude_unset=True)}
    )
    return config.model_copy(update={"training": training})


def against_incumbent(config: PipelineConfig, incumbent: str) -> PipelineConfig:
    """The configuration with another baseline, and the gates for that.

    Raises:
        ConfigError: a gate names no metric of the evaluation.
    """
    gates = config.retraining.against_incumbent
    changed: dict[str, Json] = {"baseline": incumbent}
    if gates is not None:
        changed["gates"] = [gate.model_dump(exclude_unset=True) for gate in gates]
    try:
        evaluation = EvaluationConfig.model_validate(config.evaluation.model_dump(exclude_unset=True) | changed)
    except ValueError as error:
        raise ConfigError(f"retraining.against_incumbent: {_first_line(error)}") from None
    return config.model_copy(update={"evaluation": evaluation})


def combined(verdicts: Sequence[str]) -> str:
    """Promote what every comparison promotes; reject what one rejects."""
    if "reject" in verdicts:
        return "reject"
    return "promote" if all(verdict == "promote" for verdict in verdicts) else "inconclusive"


def _first_line(error: ValueError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "Value error" in line]
    return (lines or [str(error)])[0].removeprefix("Value error, ").partition(" [type=")[0]
