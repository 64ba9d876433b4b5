"""Named models found: what they are, whether they fit the base, and by which digests they are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sdxl_core.adapter_start import DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE
from sdxl_core.adapter_targets import layer_shapes
from sdxl_core.additions import TRAINED_FILE, require_sum
from sdxl_core.bundles import MANIFEST as BUNDLE_MANIFEST
from sdxl_core.bundles import bundle_digest, bundle_identity, bundle_step, damage
from sdxl_core.config import ModelConfig
from sdxl_core.errors import UserError, did_you_mean
from sdxl_core.lora_fit import require_lora
from sdxl_core.scheduler_settings import FILE as SCHEDULE_FILE
from sdxl_core.scheduler_settings import FOLDER as SCHEDULE_FOLDER
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_config.exported_steps import step_folder
from tasks.additions import Added, BundleFolder, ExportedStep, LocalFiles, Model, OwnTraining
from tasks.checkpoint import component_tensors, read_shapes
from tasks.errors import ConfigError
from tasks.finished import exported_step, find_finished
from tasks.manifest import Ref
from tasks.pictures import GivenPictures, find_pictures, holds_pictures
from tasks.prompt_sets import PromptSet
from tasks.references import BASE, IN_PRODUCTION, STORED, TRAINED, Term, hub_model, own_step, parse_reference
from tasks.store import ArtifactStore
from tasks.train import trained_from, trained_weights
from tasks.weights import BaseModel, local_or_hub, locate_base_model


@dataclass(frozen=True)
class Surroundings:
    """What names are understood by."""

    store: ArtifactStore
    base: BaseModel
    """The configured one."""
    training: TrainingConfig
    """The configured one."""
    drawn: PromptSet
    after: int = 0
    """Steps up to here would be those of another training, which the configured one begins with."""


def find_model(reference: str, where: str, around: Surroundings) -> Model | GivenPictures:
    """The model, or the pictures, that a reference names. `where` is the setting that holds it.

    Raises:
        ConfigError, UserError: there is no such thing, it is none, or it does not fit the base.
    """
    terms = parse_reference(reference, where)
    name = " + ".join(term.name for term in terms)
    first = terms[0]
    if first.is_local and Path(first.what).is_dir() and holds_pictures(Path(first.what)):
        if len(terms) > 1 or first.scale != 1:
            raise ConfigError.about(where, expected="a folder of pictures by itself", got=name)
        return find_pictures(Path(first.what), name, around.drawn, around.store.digest_file, where)
    model = Model(name, around.base)
    for term in terms:
        model = _with_term(model, term, where, around)
    require_sum([(one.name, one.kind, one.scale) for one in model.added], where)
    fit = Fit(model.base, where)
    for one in model.added:
        fit.check(one, around.store)
    step = model.added[0].step if len(terms) == len(model.added) == 1 and first.scale == 1 else None
    return replace(model, added=tuple(sorted(model.added, key=lambda one: one.order)), step=step)


def _with_term(model: Model, term: Term, where: str, around: Surroundings) -> Model:
    if term.what == BASE and term.scale == 1 and term.step is None:
        return model
    if term.what == TRAINED:
        return _plus(model, _own(term, where, around))
    if term.what == BASE:
        raise ConfigError.about(where, expected="a base without a scale or a step", got=term.name)
    if not term.is_local and (term.what.startswith((STORED, IN_PRODUCTION)) or "/" not in term.what):
        return _plus(model, _artifact(term, where, around))
    place = Path(term.what) if term.is_local else _from_hub(term.what, where)
    if (place / "model_index.json").is_file():
        return _on_checkpoint(model, term, ModelConfig(family=around.base.family.name, base=str(place)), where, around)
    return _plus(model, _local(term, place, where, around))


def _plus(model: Model, one: Added) -> Model:
    return replace(model, added=(*model.added, one))


def _on_checkpoint(model: Model, term: Term, config: ModelConfig, where: str, around: Surroundings) -> Model:
    if term.scale != 1:
        raise ConfigError.about(where, expected="a checkpoint without a scale", got=term.name)
    if model.base is not around.base:
        raise ConfigError.about(where, expected="one checkpoint", got=f"another in {term.name}")
    return replace(model, base=locate_base_model(config, around.store.digest_file, where))


def _from_hub(what: str, where: str) -> Path:
    """The local place of a hub's checkpoint, or of its LoRA."""
    asked = hub_model(what, where)
    if asked.file is not None:
        return local_or_hub(asked.repository, asked.revision, where, patterns=[asked.file]) / asked.file
    small = ["model_index.json", PEFT_CONFIG, PEFT_FILE, DIFFUSERS_FILE]
    folder = local_or_hub(asked.repository, asked.revision, where, patterns=small)
    if (folder / "model_index.json").is_file():
        return local_or_hub(asked.repository, asked.revision, where)
    if not any((folder / name).is_file() for name in small):
        fix = f"Name the file: {asked.repository}/FILE.safetensors"
        expected = f"model_index.json, {DIFFUSERS_FILE} or {PEFT_CONFIG} in {asked.repository}"
        raise ConfigError.about(where, expected=expected, got="none of them", fix=fix)
    return folder


def _own(term: Term, where: str, around: Surroundings) -> Added:
    """What the configuration trains, or a step of it."""
    training = around.training
    step = None if term.step is None else own_step(term.step, training, where, around.after)
    source = OwnTraining() if step is None else ExportedStep(OwnTraining(), step)
    last = training.max_steps if training.export == "last" else None
    return Added(term.name, training.adapter.kind, term.scale, source, last if step is None else step)


def _artifact(term: Term, where: str, around: Surroundings) -> Added:
    """`train/KEY`, a run's name for its newest training, or a version of a model."""
    try:
        found = find_finished(around.store, term.what, term.step)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error} (a local path begins with ./, ../, / or ~)") from None
    source = found.training if found.step is None else ExportedStep(found.training, found.step)
    kind = str(found.facts["training"]["adapter"]["kind"])
    name = replace(term, what=found.name, step=None).name if term.what.startswith(IN_PRODUCTION) else term.name
    return Added(name, kind, term.scale, source, exported_step(found.facts))


def _local(term: Term, place: Path, where: str, around: Surroundings) -> Added:
    """From a file or folder of this machine."""
    digest = around.store.digest_file
    if (place / BUNDLE_MANIFEST).is_file() and (place / "state.json").is_file():
        kind = str(bundle_identity(place)["training"]["adapter"]["kind"])
        source = BundleFolder(place, bundle_digest(place))
        return Added(term.name, kind, term.scale, source, bundle_step(place))
    if (place / TRAINED_FILE).is_file():
        files = [*trained_weights(place), place / SCHEDULE_FOLDER / SCHEDULE_FILE]
        digests = tuple(digest(file) for file in files if file.is_file())
        facts = json.loads((place / TRAINED_FILE).read_text(encoding="utf-8"))
        kind = str(facts["training"]["adapter"]["kind"])
        return Added(term.name, kind, term.scale, LocalFiles(place, digests), exported_step(facts))
    file = _lora_file(place, where)
    beside = [file.with_name(PEFT_CONFIG)] if file.name == PEFT_FILE else []
    return Added(term.name, "lora", term.scale, LocalFiles(file, tuple(digest(one) for one in [file, *beside])))


def _lora_file(place: Path, where: str) -> Path:
    if place.is_dir():
        found = next((place / name for name in (DIFFUSERS_FILE, PEFT_FILE) if (place / name).is_file()), None)
        if found is None:
            fix = ""
            if (place / "unet").is_dir():
                fix = "Of a full fine-tune name the run, train/KEY, or a folder that `sdxl-flows export` wrote"
            expected = f"a checkpoint, a LoRA ({DIFFUSERS_FILE}), a bundle or pictures"
            raise ConfigError.about(where, expected=expected, got=f"none of them in {place}", fix=fix)
        place = found
    if place.suffix != ".safetensors" or not place.is_file():
        beside = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        expected = "an existing LoRA file ending in .safetensors, or a folder"
        raise ConfigError.about(where, expected=expected, got=place, fix=did_you_mean(place.name, beside))
    return place


class Fit:
    """Whether what is added fits a base, by the headers of files alone."""

    def __init__(self, base: BaseModel, where: str) -> None:
        self._base, self._where = base, where

    def check(self, one: Added, store: ArtifactStore) -> None:
        """Raises UserError naming what does not fit."""
        match one.source:
            case BundleFolder(place):
                if not (place / "weights.safetensors").is_file():
                    raise ConfigError(f"{self._where}: {place}: {damage(place)}")
                self._require_same_base(one, bundle_identity(place)["inputs"])
            case LocalFiles(place):
                self._check_export(one, place)
            case Ref() as training:
                self._check_export(one, store.path(training))
            case ExportedStep(Ref() as training, step):
                self._check_export(one, store.path(training) / step_folder(step))

    def _check_export(self, one: Added, place: Path) -> None:
        file = place / DIFFUSERS_FILE if place.is_dir() else place
        if file.is_file():
            require_lora(read_shapes(file, self._where), self._layers, self._unet, self._where, file)
        else:
            self._require_same_base(one, json.loads((place / TRAINED_FILE).read_text(encoding="utf-8"))["inputs"])

    def _require_same_base(self, one: Added, inputs: Mapping[str, Any]) -> None:
        if inputs.get("model") not in trained_from(self._base):
            fix = "Set model.base to the model that it was trained from"
            expected = f"what was trained from model.base ({self._base.folder})"
            raise UserError.about(self._where, expected=expected, got=f"{one.name}, from another", fix=fix)

    @cached_property
    def _layers(self) -> dict[str, dict[str, tuple[int, ...]]]:
        folder = self._base.folder
        return {
            part: layer_shapes(component_tensors(folder / part, part, self._where))
            for part in self._base.family.networks
        }

    @cached_property
    def _unet(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads((self._base.folder / "unet" / "config.json").read_text(encoding="utf-8"))
        return settings
