"""The variants of a sweep as experiments: all checked before the first one trains, and then judged side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.errors import EvalError
from sdxl_core.errors import UserError
from tasks.additions import Model
from tasks.config import PipelineConfig
from tasks.errors import ConfigError
from tasks.experiment import Experiment, prepare_experiment
from tasks.manifest import Json, Ref
from tasks.references import BASE, TRAINED, names_trained
from tasks.store import ArtifactStore
from tasks.sweeps.grid import Variant, value_in_words
from tasks.sweeps.running import Failure
from tasks.sweeps.search import SearchConfig
from tasks.trainings import Resume
from tasks.yaml_config import read_config

_JUDGED = ("evaluation.candidate", "evaluation.candidates")
_CHOOSING = "evaluation.selection"
_LONGEST_NAME = 63
SUFFIX = "-sweep"


@dataclass(frozen=True)
class Asked:
    """What all variants of a sweep have in common."""

    configs: tuple[Path, ...]
    overrides: tuple[str, ...] = ()
    settings: Mapping[str, Json] | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError where an override says what is judged, which is what the sweep trains."""
        for override in self.overrides:
            if override.partition("=")[0].strip() in _JUDGED:
                raise ConfigError.about("--set", expected="no candidate: a sweep judges what it trains", got=override)


@dataclass(frozen=True)
class Prepared:
    """A variant, and the experiment that trains it."""

    variant: Variant
    experiment: Experiment


def prepare_variants(asked: Asked, variants: Sequence[Variant], store: ArtifactStore) -> list[Prepared]:
    """
    Raises:
        ConfigError: a variant cannot be what it is to be; all that is wrong with any of them, and which.
    """
    wrong: dict[str, list[str]] = defaultdict(list)
    prepared = []
    for variant in variants:
        try:
            config = training_config(asked, variant)
            experiment = prepare_experiment(config, store, "", Resume(fresh=True))
            prepared.append(Prepared(variant, experiment))
        except (UserError, EvalError) as error:
            wrong[str(error)].append(variant.name)
    if wrong:
        raise ConfigError("\n".join(_told(message, names, len(variants)) for message, names in wrong.items()))
    _require_same_base(prepared)
    return prepared


def training_config(asked: Asked, variant: Variant) -> PipelineConfig:
    """How a variant is trained; under a name of its own, so that its bundles are apart from the others'."""
    kept = [override for override in asked.overrides if not _says_choosing(override)]
    config = read_config(variant.config, [*kept, *variant.overrides], [TRAINED], asked.settings)
    if names_trained((config.evaluation.baseline,)):
        raise ConfigError.about(
            "evaluation.baseline", expected="one model for all variants", got=config.evaluation.baseline
        )
    return config.model_copy(update={"name": training_name(config.name, variant.slug)})


def training_name(name: str, slug: str) -> str:
    """Of a variant; where it is too long the experiment's own is cut, since slugs end in what makes them unique."""
    return f"{name[: _LONGEST_NAME - 1 - len(slug)].rstrip('-')}-{slug}"


def judging_config(asked: Asked, references: Sequence[str], search: SearchConfig | None = None) -> PipelineConfig:
    """How all variants are judged: as the first file says. `references`: of two models at least.

    The best that a search has found is judged on prompts that had no part in it, whether or not the file says so.
    """
    objective = [f"{_CHOOSING}.by={search.objective}"] if search is not None and search.objective else []
    overrides = [*asked.overrides, *objective]
    config = read_config(asked.configs[0], overrides, references, asked.settings)
    if search is not None and config.evaluation.selection is None:
        config = read_config(asked.configs[0], [*overrides, f"{_CHOOSING}={{}}"], references, asked.settings)
    return config.model_copy(update={"name": run_name(config.name)})


def run_name(name: str) -> str:
    """Of a sweep whose first configuration is called so."""
    return f"{name[: _LONGEST_NAME - len(SUFFIX)].rstrip('-')}{SUFFIX}"


def judge(
    asked: Asked,
    trained: Mapping[str, tuple[Variant, Ref]],
    store: ArtifactStore,
    command: str,
    search: SearchConfig | None = None,
) -> Experiment:
    """The experiment that judges trainings, by the slugs that they are judged under."""
    references = [str(ref) for _, ref in trained.values()]
    # a configuration of several candidates has two at least; the base stands in, and is not judged
    padding = [BASE] if len(references) == 1 else []
    config = judging_config(asked, [*references, *padding], search)
    found = prepare_experiment(config, store, command)
    models: dict[str, Any] = {"base": found.models["base"]}
    for (slug, (variant, _)), model in zip(trained.items(), list(found.candidates.values()), strict=False):
        assert isinstance(model, Model)
        # no state of one training, over whose steps a metric could be drawn
        models[slug] = replace(model, name=variant.name, step=None)
    evaluation = config.evaluation.model_copy(update={"candidates": tuple(references)})
    shown = config.model_copy(update={"evaluation": evaluation})
    return replace(found, config=shown, models=models, run_name=config.name)


def told(
    trained: Mapping[str, tuple[Variant, Ref]], failed: Sequence[tuple[Variant, Failure]], notes: Sequence[str]
) -> dict[str, Json]:
    """What the report says of the sweep: see `eval.sweep.Sweep`."""
    variants = [variant for variant, _ in trained.values()]
    keys = list(dict.fromkeys(key for variant in variants for key, _ in variant.without_seed))
    names = {key: name for variant in variants for key, name in variant.keys.items()}
    with_method = any(variant.method for variant in variants)
    groups: dict[str, dict[str, Any]] = {}
    for slug, (variant, ref) in trained.items():
        values = dict(variant.without_seed)
        shown = [value_in_words(values[key]) for key in keys]
        group = groups.setdefault(
            variant.group,
            {"name": variant.group, "values": [variant.method] * with_method + shown, "members": []},
        )
        group["members"].append({"slug": slug, "seed": variant.seed or "as configured", "training": str(ref)})
    return {
        "settings": ["method"] * with_method + [names[key] for key in keys],
        "groups": list(groups.values()),
        "failed": [{"name": variant.name, "reason": failure.reason} for variant, failure in failed],
        "notes": list(notes),
    }


def _told(message: str, names: Sequence[str], of: int) -> str:
    """One mistake, and whose it is."""
    if len(names) == of and of > 1:
        return message
    return f"{'; '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}: {message}"


def _require_same_base(prepared: Sequence[Prepared]) -> None:
    first = prepared[0]
    digest = first.experiment.model.digest()
    for one in prepared:
        if one.experiment.model.digest() != digest:
            expected = f"the base of {first.variant.name}, against which all are judged"
            raise ConfigError.about(f"{one.variant.name}: model.base", expected=expected, got="another")


def _says_choosing(override: str) -> bool:
    key = override.partition("=")[0].strip()
    return key == _CHOOSING or key.startswith(f"{_CHOOSING}.")
