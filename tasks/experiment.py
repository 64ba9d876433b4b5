"""An experiment: a configuration with everything it points at found, checked and digested, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
from tasks.config import PipelineConfig
from tasks.errors import ConfigError
from tasks.faces import Detector, locate_detector
from tasks.identity import FaceModel, locate_face_model
from tasks.manifest import Json
from tasks.models import Surroundings, find_model
from tasks.pictures import GivenPictures
from tasks.prompt_sets import PromptSet, drawn_prompts
from tasks.references import BASE, TRAINED, names_trained
from tasks.store import ArtifactStore
from tasks.train import Continuing
from tasks.trainings import Resume, find_ancestor
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
    drawn: PromptSet
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
    lesson = _prepare_lesson(config, store, model, resume or Resume()) if trains else None
    drawn = PromptSet(drawn_prompts(evaluation, config.sampling), evaluation.replicates, evaluation.seed)
    around = Surroundings(store, model, config.training.adapter.kind, drawn)
    return Experiment(
        config=config,
        fingerprint=dataset_fingerprint(config.dataset, store.digest_file.many),
        model=model,
        drawn=drawn,
        models={
            "base": find_model(evaluation.baseline, "evaluation.baseline", around),
            "candidate": find_model(evaluation.candidate, "evaluation.candidate", around),
        },
        metric_weights=locate_metric_weights(evaluation, store.digest_file),
        command=command,
        lesson=lesson,
    )


def _prepare_lesson(config: PipelineConfig, store: ArtifactStore, model: BaseModel, resume: Resume) -> Lesson:
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


def check_sections(config: PipelineConfig) -> None:
    """Refuse sections that do not fit each other.

    Raises:
        ConfigError: naming both.
    """
    objective = config.training.objective.kind
    if config.training.attention == "xformers" and config.captions.max_chunks > 1:
        raise ConfigError(
            "training.attention = xformers: its kernels take no captions of several lengths; set "
            "training.attention=auto or captions.max_chunks=1"
        )
    if config.captions.max_chunks > 1 and config.sampling.max_chunks < config.captions.max_chunks:
        raise ConfigError(
            f"sampling.max_chunks = {config.sampling.max_chunks} would cut prompts that captions.max_chunks = "
            f"{config.captions.max_chunks} trains on; set sampling.max_chunks={config.captions.max_chunks}"
        )
    if objective == "prior_preservation" and config.prior is None:
        raise ConfigError(
            "training.objective.kind = prior_preservation needs class images: add a section "
            "`prior: {prompt: a photo of a person}`, or set training.objective.kind=diffusion"
        )
    if objective != "prior_preservation" and config.prior is not None:
        raise ConfigError(
            f"prior: class images are not used by training.objective.kind = {objective}: "
            "remove the section (--set prior=null), or set training.objective.kind=prior_preservation"
        )
    _check_pictures(config)
    _check_validation(config)
    if not any(metric.primary for metric in config.evaluation.metrics):
        raise ConfigError(
            "evaluation.metrics: expected one at least with `primary: true`, got none; "
            "the primary metrics decide the verdict, so name them before you see results"
        )


def _check_pictures(config: PipelineConfig) -> None:
    masked, masks = config.training.masked_loss is not None, config.dataset.masks is not None
    if masked and not masks:
        raise ConfigError(
            "training.masked_loss needs masks: set dataset.masks to a folder (./masks) or alpha, or remove the section"
        )
    if masks and not masked:
        raise ConfigError("dataset.masks are not used: add a section `training: {masked_loss: {}}`, or remove them")
    if config.transform.crop == "face" and not (config.transform.face.detector or config.dataset.face_box_column):
        raise ConfigError(
            "transform.crop = face needs to know where faces are: set dataset.face_box_column, or "
            "transform.face.detector to the folder of an insightface model"
        )


def _check_validation(config: PipelineConfig) -> None:
    """The held-out pictures come from one place."""
    loss, path = config.training.validation_loss, config.dataset.validation_path
    if loss is None and path is not None:
        raise ConfigError(
            "dataset.validation_path: only training.validation.loss uses its pictures: add that section, or remove the "
            "path (--set dataset.validation_path=null)"
        )
    if loss is not None and loss.splits_dataset and path is not None:
        raise ConfigError(
            "training.validation.loss holds out a part of the dataset, and dataset.validation_path is there too: "
            "remove the path, or share and pictures"
        )
    if loss is not None and not loss.splits_dataset and path is None:
        raise ConfigError(
            "training.validation.loss needs pictures that are not trained on: set share (such as 0.1) or pictures (a "
            "number) to hold out a part of the dataset, or dataset.validation_path to a folder of others"
        )


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
