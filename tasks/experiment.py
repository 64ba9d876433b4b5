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
from tasks.checkpoint import read_shapes
from tasks.config import PipelineConfig
from tasks.errors import ConfigError
from tasks.faces import Detector, locate_detector
from tasks.identity import FaceModel, locate_face_model
from tasks.images import AdapterFile, PromptSet
from tasks.manifest import Json
from tasks.prompt_sets import drawn_prompts
from tasks.store import ArtifactStore
from tasks.train import Continuing
from tasks.trainings import Resume, find_ancestor
from tasks.weights import BaseModel, MetricWeights, locate_base_model, locate_metric_weights


@dataclass(frozen=True)
class Experiment:
    """What the wiring needs to know."""

    config: PipelineConfig
    fingerprint: str
    """Of the dataset's content."""
    validation_fingerprint: str
    """Of the content at `dataset.validation_path`; empty where there is none."""
    model: BaseModel
    drawn: PromptSet
    metric_weights: Mapping[str, MetricWeights]
    command: str
    """How to make the report again; it stands in the report."""
    continuing: Continuing
    """How the training deals with earlier ones."""
    adapter: AdapterFile | None = None
    """A LoRA from elsewhere, to judge instead of training one."""
    face_detector: Detector | None = None
    face_model: FaceModel | None = None
    """For the identity loss."""

    @property
    def name(self) -> str:
        """Names the run, its folder and its report."""
        return f"{self.config.name}-{_slug(self.adapter.path.stem)}" if self.adapter else self.config.name

    @property
    def shown_config(self) -> dict[str, Json]:
        """What was configured; without `runtime`, and with places below the working folder shown relative to it."""
        document = self.config.model_dump(mode="json", exclude={"runtime"}, exclude_unset=True)
        return {name: _relative(section, f"{Path.cwd()}/") for name, section in document.items()}


def prepare_experiment(
    config: PipelineConfig,
    store: ArtifactStore,
    command: str,
    adapter: Path | None = None,
    resume: Resume | None = None,
) -> Experiment:
    """Resolve a configuration. Loads no model and reads no picture beyond its bytes.

    Raises:
        UserError, EvalError: something the configuration points at is not there or does not fit.
    """
    check_sections(config)
    config.training.optimizer.require()
    require_attention(config.training.attention)
    evaluation, resume = config.evaluation, resume or Resume()
    model = locate_base_model(config.model, store.digest_file)
    schedule = scheduler_settings(model.folder, config.training.schedule)
    timesteps = schedule.get("num_train_timesteps", TIMESTEPS)
    refuse_timesteps_beyond(timesteps, config.training)
    require_timesteps(config.training.consistency.identity_loss, timesteps)
    if config.training.asks_base:
        refuse_base_of_another_prediction(model.folder, config.training.schedule)
    validated = config.dataset.validation
    prompts = drawn_prompts(evaluation, config.sampling)
    return Experiment(
        config=config,
        fingerprint=dataset_fingerprint(config.dataset, store.digest_file.many),
        validation_fingerprint=dataset_fingerprint(validated, store.digest_file.many) if validated else "",
        model=model,
        drawn=PromptSet(prompts, evaluation.replicates, evaluation.seed),
        metric_weights=locate_metric_weights(evaluation, store.digest_file),
        command=command,
        adapter=_adapter_file(adapter, store) if adapter else None,
        face_detector=locate_detector(config.transform, store.digest_file),
        face_model=locate_face_model(config.training, config.transform, store.digest_file),
        continuing=Continuing(
            name=config.name,
            ancestor=find_ancestor(store, config.name, config.training, resume),
            override=resume.override,
            fresh=resume.fresh,
            start=check_adapter(config.training, model, store.digest_file),
        ),
    )


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


def _adapter_file(path: Path, store: ArtifactStore) -> AdapterFile:
    if path.suffix != ".safetensors" or not path.is_file():
        raise ConfigError.about("--adapter", expected="an existing LoRA file ending in .safetensors", got=path)
    read_shapes(path, "--adapter")
    return AdapterFile(path.resolve(), store.digest_file(path))


def _relative(value: Json, prefix: str) -> Json:
    if isinstance(value, dict):
        return {key: _relative(entry, prefix) for key, entry in value.items()}
    if isinstance(value, list):
        return [_relative(entry, prefix) for entry in value]
    return f"./{value.removeprefix(prefix)}" if isinstance(value, str) and value.startswith(prefix) else value


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
