"""An experiment: a configuration with everything it points at found, checked and digested, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eval.config import EvaluationConfig
from sdxl_core.data.fingerprint import dataset_fingerprint
from sdxl_core.identity.face_model import require_timesteps
from sdxl_core.scheduler_settings import (
    TIMESTEPS,
    refuse_base_of_another_prediction,
    refuse_timesteps_beyond,
    scheduler_settings,
)
from sdxl_core.training_config.saving_memory import require_attention
from tasks.adapters import check_adapter
from tasks.additions import Model
from tasks.comparison import is_decided
from tasks.config import PipelineConfig
from tasks.errors import ConfigError
from tasks.faces import Detector, locate_detector
from tasks.identity import FaceModel, locate_face_model
from tasks.manifest import Json, Ref
from tasks.models import Surroundings, find_model
from tasks.pictures import GivenPictures
from tasks.prompt_sets import PromptSet, drawn_prompts, looks_at
from tasks.references import BASE, TRAINED, names_trained
from tasks.sections import check_sections
from tasks.store import ArtifactStore
from tasks.train import Continuing
from tasks.trainings import Resume, find_ancestor
from tasks.validation_scores import Scorers, locate_scorers
from tasks.weights import BaseModel, MetricWeights, locate_base_model, locate_metric_weights
from tasks.yaml_config import SUM

_MOST_LETTERS = 60
"""Of a model's name in the name of a run, which is a folder's too."""


@dataclass(frozen=True)
class Experiment:
    """What the wiring needs to know."""

    config: PipelineConfig
    fingerprint: str
    """Of the dataset's content."""
    model: BaseModel
    looks: tuple[PromptSet, ...]
    """What is drawn before each look at the statistics; the last is the whole set."""
    decided: Callable[[Ref], bool]
    """Whether a comparison leaves nothing that more prompts could decide."""
    models: Mapping[str, Model | GivenPictures]
    """By role: `base`, what is compared with, and `candidate`."""
    metric_weights: Mapping[str, MetricWeights]
    command: str
    """How to make the report again; it stands in the report."""
    lesson: Lesson | None
    """None where nothing that the configuration trains is judged."""

    @property
    def name(self) -> str:
        """Names the run, its folder and its report."""
        evaluation, models = self.config.evaluation, self.models
        candidate = "" if evaluation.candidate == TRAINED else f"-{_slug(models['candidate'].name)}"
        against = "" if evaluation.baseline == BASE else f"-against-{_slug(models['base'].name)}"
        return f"{self.config.name}{candidate}{against}"

    @property
    def shown_config(self) -> dict[str, Json]:
        """What was configured; without `runtime`, and with places below the working folder shown relative to it."""
        document = self.config.model_dump(mode="json", exclude={"runtime"}, exclude_unset=True)
        return {name: _relative(section, f"{Path.cwd()}/") for name, section in document.items()}


@dataclass(frozen=True)
class Lesson:
    """What training needs beside it."""

    continuing: Continuing
    """How it deals with earlier ones."""
    validation_fingerprint: str
    """Of the content at `dataset.validation_path`; empty where there is none."""
    face_detector: Detector | None
    face_model: FaceModel | None
    """For the identity loss."""
    scorers: Scorers | None
    """Of validation pictures."""


def prepare_experiment(
    config: PipelineConfig, store: ArtifactStore, command: str, resume: Resume | None = None
) -> Experiment:
    """Resolve a configuration. Loads no model and reads no picture beyond its bytes.

    Raises:
        UserError, EvalError: something the configuration points at is not there or does not fit.
    """
    check_sections(config)
    evaluation = config.evaluation
    trains = names_trained((evaluation.candidate, evaluation.baseline))
    model = locate_base_model(config.model, store.digest_file)
    weights = locate_metric_weights(evaluation, store.digest_file)
    lesson = _prepare_lesson(config, store, model, weights, resume or Resume()) if trains else None
    looks = looks_at(evaluation, drawn_prompts(evaluation, config.sampling))
    ancestor = lesson.continuing.ancestor if lesson is not None else None
    around = Surroundings(store, model, config.training, looks[-1], ancestor.step if ancestor is not None else 0)
    return Experiment(
        config=config,
        fingerprint=dataset_fingerprint(config.dataset, store.digest_file.many),
        model=model,
        looks=looks,
        decided=partial(is_decided, store),
        models=_models(evaluation, around),
        metric_weights=weights,
        command=command,
        lesson=lesson,
    )


def _models(evaluation: EvaluationConfig, around: Surroundings) -> dict[str, Model | GivenPictures]:
    named = {"base": ("baseline", evaluation.baseline), "candidate": ("candidate", evaluation.candidate)}
    models = {role: find_model(what, f"evaluation.{key}", around) for role, (key, what) in named.items()}
    for role, (key, _) in named.items():
        if evaluation.stop == "sequential" and isinstance(models[role], GivenPictures):
            raise ConfigError(
                f"evaluation.{key}: these pictures are there already, so stop: sequential saves nothing; set "
                "evaluation.stop=fixed"
            )
    return models


def _prepare_lesson(
    config: PipelineConfig,
    store: ArtifactStore,
    model: BaseModel,
    weights: Mapping[str, MetricWeights],
    resume: Resume,
) -> Lesson:
    training, validated = config.training, config.dataset.validation
    training.optimizer.require()
    require_attention(training.attention)
    timesteps = scheduler_settings(model.folder, training.schedule).get("num_train_timesteps", TIMESTEPS)
    refuse_timesteps_beyond(timesteps, training)
    require_timesteps(training.consistency.identity_loss, timesteps)
    if training.asks_base:
        refuse_base_of_another_prediction(model.folder, training.schedule)
    return Lesson(
        validation_fingerprint=dataset_fingerprint(validated, store.digest_file.many) if validated else "",
        face_detector=locate_detector(config.transform, store.digest_file),
        face_model=locate_face_model(training, config.transform, store.digest_file),
        scorers=locate_scorers(training, config.evaluation, weights),
        continuing=Continuing(
            name=config.name,
            ancestor=find_ancestor(store, config.name, training, resume),
            override=resume.override,
            fresh=resume.fresh,
            start=check_adapter(training, model, store.digest_file),
        ),
    )


def require_candidate_trained(config: PipelineConfig) -> None:
    """Raises ConfigError where a run would train one thing and judge another."""
    candidate = config.evaluation.candidate
    if not names_trained((candidate,)):
        fix = "`sdxl-flows evaluate` judges it without training; --set evaluation.candidate=trained judges the training"
        raise ConfigError.about("evaluation.candidate", expected="trained", got=candidate, fix=fix)


def _relative(value: Json, prefix: str) -> Json:
    if isinstance(value, dict):
        return {key: _relative(entry, prefix) for key, entry in value.items()}
    if isinstance(value, list):
        return [_relative(entry, prefix) for entry in value]
    if not isinstance(value, str):
        return value
    return SUM.join(f"./{term.removeprefix(prefix)}" if term.startswith(prefix) else term for term in value.split(SUM))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_MOST_LETTERS].strip("-")
