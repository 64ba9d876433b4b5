"""A few pictures of several models side by side, by a configuration that is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sdxl_core.errors import did_you_mean
from tasks.config import PipelineConfig
from tasks.errors import ConfigError
from tasks.finished import find_finished
from tasks.manifest import Json
from tasks.prompt_sets import chosen_prompts
from tasks.references import BASE, TRAINED, as_local, name_of
from tasks.runs import read_runs
from tasks.store import ArtifactStore
from tasks.yaml_config import SUM, build_config, read_config


def config_of(models: Sequence[str], store: ArtifactStore) -> PipelineConfig:
    """How the first model that is a finished run was made and judged.

    Raises:
        ConfigError: none of them is one.
    """
    names = sorted({run.name for run in read_runs(store) if "train" in run.refs})
    terms = [name_of(term) for model in models for term in model.split(SUM)]
    if named := next((name for name in terms if name in names), None):
        return build_config(dict(find_finished(store, named).config), (), f"the configuration of {named}")
    unknown = [name for name in terms if name not in (BASE, TRAINED)]
    fix = next(filter(None, (did_you_mean(name, names) for name in unknown)), "Name a configuration: --config FILE")
    raise ConfigError.about("models", expected="the name of a finished run among them", got=", ".join(models), fix=fix)


def quick_look(
    file: Path | None,
    overrides: Sequence[str],
    models: Sequence[str],
    prompts: int,
    store: ArtifactStore,
    settings: Mapping[str, Json] | None = None,
) -> PipelineConfig:
    """The evaluation of `file`, or of a run among the models, of all models but the first against it, on at most so
    many prompts and without gates. `settings`: as `read_config`.

    Raises:
        ConfigError: there are fewer than two models, or no configuration.
    """
    if len(models) < 2:
        raise ConfigError.about("models", expected="two at least; the first is compared with", got=len(models))
    named = [as_local(model) for model in models]
    if file is not None:
        config = read_config(file, overrides, (), settings)
    else:
        own = config_of(models, store).model_dump(mode="json", exclude_unset=True)
        config = build_config(own, overrides, "the run's configuration", (), settings)
    document = config.model_dump(mode="json", exclude_unset=True)
    for name in ("candidate", "selection", "stop", "sequential", "gates"):
        document["evaluation"].pop(name, None)
    document["evaluation"] |= {"baseline": named[0], "candidates": named[1:], "prompts": _few(config, prompts)}
    return build_config(document, (), "compare")


def _few(config: PipelineConfig, prompts: int) -> dict[str, object]:
    asked = config.evaluation.prompt_set
    there = chosen_prompts(asked, config.evaluation.subject)
    section = asked.model_dump(mode="json", exclude_unset=True)
    if len(there) <= prompts or any(prompt.storyboard for prompt in there):
        return section
    return {**section, "sample": prompts}
