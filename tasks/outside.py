"""Sources of a lineage where they lie today: whether pictures, prompts and weights are still what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from eval.scorers.base import Metric
from sdxl_core.config import DatasetConfig
from sdxl_core.data.fingerprint import dataset_fingerprint
from tasks.adapters import check_adapter
from tasks.additions import BundleFolder, LocalFiles
from tasks.config import PipelineConfig
from tasks.digests import FileDigests, digest_json
from tasks.drawn import drawn_texts
from tasks.errors import USER_ERRORS
from tasks.faces import locate_detector
from tasks.identity import locate_face_model
from tasks.manifest import Json
from tasks.mirrors import found_here
from tasks.models import Surroundings, find_model
from tasks.pictures import GivenPictures
from tasks.prompt_sets import PromptSet, choosing_and_judging, drawn_prompts, looks_at
from tasks.references import expand_steps
from tasks.sources import (
    ADAPTER_FILE,
    BUNDLE,
    DATASET,
    DETECTOR,
    FACE_MODEL,
    MODEL_PARTS,
    PICTURES,
    PROMPTS,
    SCORERS,
    START,
    Source,
)
from tasks.store import ArtifactStore
from tasks.train import trained_from
from tasks.verify import Found
from tasks.weights import BaseModel, locate_base_model, weights_of_metric
from tasks.yaml_config import build_config, resolve_paths

Kind = tuple[str, str]
"""`what` and `of` of a source; `of` is empty for all kinds but scorers' weights."""
Digest = tuple[str, str]
"""`what` of a source, and its digest."""
_ADDED = (ADAPTER_FILE, BUNDLE, PICTURES)


@dataclass
class _Today:
    """What lies where the configuration says."""

    digests: dict[Kind, set[str]] = field(default_factory=dict)
    problems: dict[Kind, str] = field(default_factory=dict)

    def look(self, whats: Iterable[str], find: Callable[[], Iterable[Digest]]) -> None:
        """Note the kinds and digests that are found, or why not."""
        try:
            for what, sha256 in find():
                self.add((what, ""), sha256)
        except USER_ERRORS as problem:
            self.problems |= {(what, ""): _first_line(problem) for what in whats}

    def add(self, kind: Kind, sha256: str) -> None:
        self.digests.setdefault(kind, set()).add(sha256)


def verify_sources(
    store: ArtifactStore, sources: Iterable[Source], config: Mapping[str, Json] | None, home: Path
) -> Iterator[Found]:
    """Each source, against what lies today where `config` names it; its relative paths are relative to `home`."""
    today, reason = _Today(), "no report tells where it was"
    try:
        if config is not None:
            today = _look_around(store, build_config(resolve_paths(config, home), (), "report"))
            reason = "not looked for"
    except USER_ERRORS as problem:
        reason = _first_line(problem)
    for source in sources:
        kind = (source.what, source.of)
        name = f"{source.name}  {source.sha256[:12]}"
        if source.sha256 in today.digests.get(kind, ()):
            yield Found(name, "unchanged")
        elif kind in today.problems or kind not in today.digests:
            yield Found(name, "not found", today.problems.get(kind, reason))
        else:
            yield Found(name, "changed since")


def _look_around(store: ArtifactStore, config: PipelineConfig) -> _Today:
    today, digests = _Today(), store.digest_file
    for dataset in (config.dataset, config.dataset.validation):
        if dataset is not None and dataset.drawn is None:
            today.look([DATASET], partial(_dataset, dataset, store))
    today.look([PROMPTS], partial(_prompts, config))
    _look_at_scorers((*config.evaluation.metrics, *(config.feedback.judges if config.feedback else ())), digests, today)
    today.look([DETECTOR, FACE_MODEL], partial(_face_models, config, digests))
    try:
        base = locate_base_model(config.model, digests)
    except USER_ERRORS as problem:
        today.problems |= {(what, ""): _first_line(problem) for what in (*MODEL_PARTS, START, *_ADDED)}
        return today
    today.look(MODEL_PARTS, partial(_parts, base))
    today.look([START], partial(_begun_with, config, base, digests))
    references = expand_steps(config.evaluation.references, config.training, "evaluation.candidates")
    drawn = (config.dataset.drawn.model,) if config.dataset.drawn is not None else ()
    for reference in (*references, config.evaluation.baseline, *drawn):
        today.look(_ADDED, partial(_named, store, config, base, reference))
    return today


def _dataset(dataset: DatasetConfig, store: ArtifactStore) -> Iterator[Digest]:
    here, _ = found_here(dataset, store)
    yield DATASET, dataset_fingerprint(here, store.digest_file.many)


def _prompts(config: PipelineConfig) -> Iterator[Digest]:
    evaluation = config.evaluation
    choosing, judging = choosing_and_judging(evaluation, drawn_prompts(evaluation, config.sampling))
    for drawn in (*looks_at(evaluation, judging), *([choosing] if choosing else [])):
        yield PROMPTS, digest_json([prompt.as_dict() for prompt in drawn.prompts])
    if config.dataset.drawn is not None:
        yield PROMPTS, digest_json([prompt.as_dict() for prompt in drawn_texts(config.dataset)])


def _look_at_scorers(metrics: Iterable[Metric], digests: FileDigests, today: _Today) -> None:
    for metric in metrics:
        try:
            for field_, sha256 in weights_of_metric(metric.id, metric, digests).digests.items():
                today.add((SCORERS, f"{metric.id}: {field_}"), sha256)
        except USER_ERRORS as problem:
            today.problems |= {(SCORERS, f"{metric.id}: {name}"): _first_line(problem) for name in metric.locations()}


def _face_models(config: PipelineConfig, digests: FileDigests) -> Iterator[Digest]:
    if detector := locate_detector(config.transform, digests):
        yield DETECTOR, detector.digest
    if face_model := locate_face_model(config.training, config.transform, digests):
        yield FACE_MODEL, face_model.digest
        yield DETECTOR, face_model.detector.digest


def _parts(base: BaseModel) -> Iterator[Digest]:
    """Every set of components by which a stage may know the model."""
    whole, text, vae, tokenizer = MODEL_PARTS
    yield from ((whole, sha256) for sha256 in sorted(trained_from(base)))
    yield text, base.text_digest
    yield vae, base.digest("vae")
    yield tokenizer, base.digest("tokenizer")


def _begun_with(config: PipelineConfig, base: BaseModel, digests: FileDigests) -> Iterator[Digest]:
    if found := check_adapter(config.training, base, digests):
        yield START, found


def _named(store: ArtifactStore, config: PipelineConfig, base: BaseModel, reference: str) -> Iterator[Digest]:
    """Of a model that the evaluation names, what is no artifact."""
    evaluation = config.evaluation
    whole = PromptSet(drawn_prompts(evaluation, config.sampling), evaluation.replicates, evaluation.seed)
    model = find_model(reference, "evaluation", Surroundings(store, base, config.training, whole))
    if isinstance(model, GivenPictures):
        yield PICTURES, model.digest
        return
    yield from _parts(model.base)
    for added in model.added:
        if isinstance(added.source, BundleFolder):
            yield BUNDLE, added.source.digest
        elif isinstance(added.source, LocalFiles):
            yield from ((ADAPTER_FILE, sha256) for sha256 in added.source.digests)


def _first_line(problem: Exception) -> str:
    return str(problem).splitlines()[0]
