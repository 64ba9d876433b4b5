"""The whole configuration: the sections of the core and of the evaluation, composed. Importing this loads no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from eval.config import EvaluationConfig
from eval.feedback_config import FeedbackConfig
from sdxl_core.config import (
    CaptionsConfig,
    Config,
    DatasetConfig,
    ModelConfig,
    PriorConfig,
    SamplingConfig,
    TransformConfig,
)
from sdxl_core.export_config import ExportConfig
from sdxl_core.families import FAMILIES
from sdxl_core.training_config import TrainingConfig
from sdxl_core.urls import is_url, refuse_bad_url
from tasks.fan_out.config import FanOutConfig
from tasks.remote.config import SageMakerConfig, require_place
from tasks.retraining_config import RetrainingConfig
from tasks.store import ArtifactStore, StorePlace, Verify, store_root, store_url

Hours = Annotated[float, Field(gt=0)]


class TimeoutHours(Config):
    """For how many hours a stage may compute, by its kind; unset, as long as it takes.

    Waiting for a device does not count. A training that is stopped saves first, and the next run goes on from there.
    """

    bundle: Hours | None = None
    class_images: Hours | None = None
    comparison: Hours | None = None
    comparisons: Hours | None = None
    dataset: Hours | None = None
    drawn: Hours | None = None
    faces: Hours | None = None
    feedback: Hours | None = None
    identity: Hours | None = None
    images: Hours | None = None
    landmarks: Hours | None = None
    latents: Hours | None = None
    matrix: Hours | None = None
    pictures: Hours | None = None
    preflight: Hours | None = None
    release: Hours | None = None
    report: Hours | None = None
    scores: Hours | None = None
    self_test: Hours | None = None
    text: Hours | None = None
    train: Hours | None = None

    def seconds(self, kind: str) -> float | None:
        """The limit of stages of a kind; None where there is none."""
        hours: float | None = getattr(self, kind, None)
        return None if hours is None else 3600 * hours


class RuntimeConfig(Config):
    """Where and on what to run. Nothing here changes a result, so nothing here enters a key."""

    store: str | None = None
    """Folder of the artifact store, or a URL that several machines share, such as s3://bucket/sdxl. Unset:
    SDXL_FLOWS_STORE of the environment, else `.sdxl-flows` where you are."""
    cache: str | None = None
    """Folder of this machine's copies, where the store is a URL. Unset: SDXL_FLOWS_CACHE of the environment, else
    `.sdxl-flows` where you are."""
    cache_gb: Annotated[float, Field(gt=0)] | None = None
    """How much this machine's copies may take, where the store is a URL: the longest unused go first, and are fetched
    again when they are needed. What nobody else has yet always stays. Unset: no limit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one; of several that are visible (CUDA_VISIBLE_DEVICES), one that is free."""
    timeout_hours: TimeoutHours = TimeoutHours()
    train_on: SageMakerConfig | None = None
    """Where trainings run, if not here. All other stages stay here."""
    fan_out: FanOutConfig = FanOutConfig()
    verify: Verify = "auto"
    """How an artifact is looked at before it is used again: by the sizes of its files, or by their digests, for which
    it is read whole, once in a process. auto: digests where the store lies on a network file system, or
    SDXL_FLOWS_STORE_REMOTE is set; sizes elsewhere."""

    @field_validator("store")
    @classmethod
    def _can_be_opened(cls, store: str | None) -> str | None:
        if store is not None and is_url(store):
            refuse_bad_url(store)
        return store

    def store_root(self) -> Path:
        """The store's folder, absolute."""
        return store_root(self.store, self.cache)

    @property
    def elsewhere(self) -> frozenset[str]:
        """Kinds of stages that run on other machines."""
        return frozenset() if self.train_on is None else frozenset({"train"})

    def open_store(self) -> ArtifactStore:
        """
        Raises:
            StoreError, StoreAway: as `ArtifactStore.at`.
            ConfigError: trainings are to run elsewhere, and could not share it.
        """
        if self.train_on is not None:
            require_place(self.train_on, store_url(self.store))
        cache_bytes = None if self.cache_gb is None else round(self.cache_gb * 1e9)
        place = StorePlace(str(self.store_root()), self.verify, store_url(self.store), cache_bytes)
        return ArtifactStore.at(place)


class PipelineConfig(Config):
    """One experiment: a base model, pictures to learn, how to train, and how to judge the result."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Lower-case letters, digits and `-`: names the run, its folder below `runs/` and its report."""
    model: ModelConfig
    dataset: DatasetConfig
    transform: TransformConfig = TransformConfig()
    captions: CaptionsConfig = CaptionsConfig()
    feedback: FeedbackConfig | None = None
    """Scorers that say which pictures are preferred: of the dataset's pairs, or of drawn pictures."""
    prior: PriorConfig | None = None
    """Class images, for the objective `prior_preservation`."""
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    """How the evaluation's pictures (and the validation pictures of training) are generated."""
    evaluation: EvaluationConfig
    export: ExportConfig = ExportConfig()
    """What `export` and `push` say of the result. Enters no key but the report's, which shows the configuration."""
    retraining: RetrainingConfig = RetrainingConfig()
    """How `retrain` deals with a model that is retrained again and again."""
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_the_family(cls, document: Any) -> Any:
        """Of training pictures and drawn ones, where nothing else is said; what other families have stays unsaid."""
        return _with_sizes(document) if isinstance(document, dict) else document

    @property
    def extra_captions(self) -> tuple[str, ...]:
        """Captions that training needs beside those of its pictures."""
        class_prompt = getattr(self.training.objective, "class_prompt", None)
        return () if class_prompt is None else (class_prompt,)


def _with_sizes(document: dict[str, Any]) -> dict[str, Any]:
    named = document.get("model")
    name = named.get("family") if isinstance(named, dict) else getattr(named, "family", None)
    family = next((each for each in FAMILIES.values() if each.name == name), None)
    if family is None or family.size_px == SamplingConfig().width_px:
        return document
    drawn = {"width_px": family.size_px, "height_px": family.size_px}
    out = document | {"transform": _unless_said(document.get("transform", {}), {"resolution_px": family.size_px})}
    out["sampling"] = _unless_said(document.get("sampling", {}), drawn)
    if isinstance(prior := document.get("prior"), dict):
        out["prior"] = prior | {"sampling": _unless_said(prior.get("sampling", {}), drawn)}
    return out


def _unless_said(section: Any, values: dict[str, Any]) -> Any:
    return {**values, **section} if isinstance(section, dict) else section


class ExportSection(Config):
    """The part of a configuration that `--set` can change when files are written."""

    export: ExportConfig = ExportConfig()


def config_schema() -> dict[str, Any]:
    """JSON Schema of the YAML files, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **PipelineConfig.model_json_schema()}


def schema_text() -> str:
    return json.dumps(config_schema(), indent=1)
