"""An experiment: a configuration with everything it points at found, checked and digested, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from tasks.comparison import chosen, is_decided
from tasks.config import PipelineConfig
from tasks.drawn import Drawing, locate_drawing
from tasks.errors import ConfigError
from tasks.faces import Detector, locate_detector
from tasks.feedback import locate_judges
from tasks.identity import FaceModel, locate_face_model
from tasks.manifest import Json, Ref
from tasks.mirrors import found_here
from tasks.models import Surroundings, find_model
from tasks.pictures import GivenPictures
from tasks.prompt_sets import PromptSet, choosing_and_judging, drawn_prompts, looks_at
from tasks.references import BASE, TRAINED, expand_steps, names_trained
from tasks.sections import check_sections
from tasks.store import ArtifactStore
from tasks.train import Continuing
from tasks.trainings import Resume, find_ancestor
from tasks.validation_scores import Scorers, locate_scorers
from tasks.weights import BaseModel, MetricWeights, locate_base_model, locate_metric_weights
from tasks.yaml_config import SUM

CANDIDATE = "candidate"
"""What the only one is called."""
_MOST_LETTERS = 60
"""Of a model's name in the name of a run, which is a folder's too."""


@dataclass(frozen=True)
class Experiment:
    """What the wiring needs to know."""

    config: PipelineConfig
    fingerprint: str
    """Of the dataset's content; empty where it is drawn."""
    model: BaseModel
    looks: tuple[PromptSet, ...]
    """What is drawn before each look at the statistics; the last is the whole set."""
    decided: Callable[[Ref], bool]
    """Whether a comparison leaves nothing that more prompts could decide."""
    models: Mapping[str, Model | GivenPictures]
    """By role: `base`, what is compared with, and `candidate`; or, of several, each by a slug that names its folder."""
    choosing: PromptSet | None
    """On what the best of several is chosen; None where there is nothing to choose."""
    chosen: Callable[[Ref], str]
    """Which one comparisons have chosen."""
    metric_weights: Mapping[str, MetricWeights]
    command: str
    """How to make the report again; it stands in the report."""
    lesson: Lesson | None
    """None where nothing that the configuration trains is judged."""
    judges: Mapping[str, MetricWeights] = field(default_factory=dict)
    """By judge of `feedback`."""
    drawing: Drawing | None = None
    """Of a dataset that is drawn."""
    mirrors: Mapping[str, str] = field(default_factory=dict)
    """The URL of each place in the configuration that is a mirror of one."""
    run_name: str = ""
    """Of a run that is not called by what it judges."""

    @property
    def name(self) -> str:
        """Names the run, its folder and its report."""
        if self.run_name:
            return self.run_name
        evaluation, models = self.config.evaluation, self.models
        own = all(names_trained((reference,)) for reference in evaluation.candidates)
        if evaluation.candidates:
            candidate = "" if own else f"-{_slug(' '.join(one.name for one in self.candidates.values()))}"
        else:
            candidate = "" if evaluation.candidate == TRAINED else f"-{_slug(models[CANDIDATE].name)}"
        against = "" if evaluation.baseline == BASE else f"-against-{_slug(models['base'].name)}"
        return f"{self.config.name}{candidate}{against}"

    @property
    def for_one(self) -> EvaluationConfig:
        """What is asked of a candidate by itself."""
        return self.config.evaluation.model_copy(update={"candidates": (), "selection": None})

    @property
    def for_all(self) -> EvaluationConfig:
        """What is asked of several at once. Where the best is chosen, the gates are for that one."""
        evaluation = self.config.evaluation
        return evaluation if evaluation.selection is None else evaluation.model_copy(update={"gates": ()})

    @property
    def candidates(self) -> dict[str, Model | GivenPictures]:
        """Those that are judged, by role or slug."""
        return {role: model for role, model in self.models.items() if role != "base"}

    @property
    def shown_config(self) -> dict[str, Json]:
        """What was configured: without `runtime`, with places below the working folder relative to it, and with URLs in
        place of their mirrors."""
        document = self.config.model_dump(mode="json", exclude={"runtime"}, exclude_unset=True)
        document["dataset"] = {
            name: self.mirrors.get(value, value) if isinstance(value, str) else value
            for name, value in document["dataset"].items()
        }
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
    """Resolve a configuration. Loads no model and reads no picture beyond its bytes. Mirrors what lies in buckets.

    Raises:
        UserError, EvalError: something the configuration points at is not there or does not fit.
    """
    check_sections(config)
    dataset, mirrors = found_here(config.dataset, store)
    config = config.model_copy(update={"dataset": dataset})
    evaluation = config.evaluation
    trains = names_trained((*evaluation.references, evaluation.baseline))
    model = locate_base_model(config.model, store.digest_file)
    weights = locate_metric_weights(evaluation, store.digest_file)
    lesson = _prepare_lesson(config, store, model, weights, resume or Resume()) if trains else None
    prompts = drawn_prompts(evaluation, config.sampling)
    whole = PromptSet(prompts, evaluation.replicates, evaluation.seed)
    choosing, judging = choosing_and_judging(evaluation, prompts)
    ancestor = lesson.continuing.ancestor if lesson is not None else None
    around = Surroundings(store, model, config.training, whole, ancestor.step if ancestor is not None else 0)
    return Experiment(
        config=config,
        fingerprint=dataset_fingerprint(config.dataset, store.digest_file.many) if config.dataset.drawn is None else "",
        model=model,
        looks=looks_at(evaluation, judging),
        decided=partial(is_decided, store),
        models=_models(evaluation, around),
        choosing=choosing,
        chosen=partial(chosen, store),
        metric_weights=weights,
        command=command,
        lesson=lesson,
        judges=locate_judges(config, store.digest_file),
        drawing=locate_drawing(config.dataset, around),
        mirrors=mirrors,
    )


def _models(evaluation: EvaluationConfig, around: Surroundings) -> dict[str, Model | GivenPictures]:
    models = {"base": _model(evaluation.baseline, "evaluation.baseline", evaluation, around)}
    if not evaluation.candidates:
        models[CANDIDATE] = _model(evaluation.candidate, "evaluation.candidate", evaluation, around)
    candidates = expand_steps(evaluation.candidates, around.training, "evaluation.candidates", around.after)
    if evaluation.selection is not None and len(candidates) < 2:
        raise ConfigError.about("evaluation.candidates", expected="several to choose from", got=", ".join(candidates))
    for place, reference in enumerate(candidates):
        model = _model(reference, f"evaluation.candidates: {reference}", evaluation, around)
        models[f"{place + 1}-{_slug(model.name)}"] = model
    return models


def _model(reference: str, where: str, evaluation: EvaluationConfig, around: Surroundings) -> Model | GivenPictures:
    model = find_model(reference, where, around)
    if evaluation.stop == "sequential" and isinstance(model, GivenPictures):
        raise ConfigError(
            f"{where}: these pictures are there already, so stop: sequential saves nothing; set evaluation.stop=fixed"
        )
    return model


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
    evaluation = config.evaluation
    if not names_trained(evaluation.references):
        key = "evaluation.candidates" if evaluation.candidates else "evaluation.candidate"
        fix = "`sdxl-flows evaluate` judges it without training; --set evaluation.candidate=trained judges the training"
        raise ConfigError.about(key, expected="trained", got=", ".join(evaluation.references), fix=fix)


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
