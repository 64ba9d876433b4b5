"""From `evaluation.prompts` and `evaluation.subject` to the prompts that are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.config import EvaluationConfig, PromptSetConfig
from sdxl_core.config import SamplingConfig
from sdxl_core.prompt_sets import format_of, read_hub_prompts, read_prompts
from sdxl_core.prompt_sets.choice import of_categories, once_each, stratified
from sdxl_core.prompt_sets.subject import fill
from sdxl_core.prompts import Prompt
from tasks.errors import ConfigError
from tasks.yaml_config import build_section


def drawn_prompts(evaluation: EvaluationConfig, sampling: SamplingConfig) -> tuple[Prompt, ...]:
    """What is read, chosen and filled in.

    Raises:
        UserError: the file, the choice or the subject does not fit, or a prompt's own settings not `sampling`.
    """
    prompts = chosen_prompts(evaluation.prompt_set, evaluation.subject)
    for prompt in prompts:
        prompt.sampling(sampling)
    return prompts


def chosen_prompts(config: PromptSetConfig, subject: str | None) -> tuple[Prompt, ...]:
    """The same, whatever it is drawn with."""
    where = f"evaluation.prompts: {Path(config.path).name}"
    found = once_each(of_categories(_read(config), config.categories, where))
    if config.sample is not None:
        if any(prompt.storyboard for prompt in found):
            raise ConfigError(f"{where}: sample would tear storyboards apart; choose whole ones by categories")
        found = stratified(found, config.sample, config.seed, where)
    return fill(found, subject, where)


def asked_prompts(asked: Mapping[str, object], subject: str | None) -> tuple[Prompt, ...]:
    """The same for settings that stand in no configuration.

    Raises:
        ConfigError: also where one of them is none.
    """
    return chosen_prompts(build_section(PromptSetConfig, dict(asked), (), "prompts"), subject)


@dataclass(frozen=True)
class CategoryOfPrompts:
    name: str
    prompts: list[Prompt]


def overview(prompts: Sequence[Prompt]) -> list[CategoryOfPrompts]:
    """By category, in the set's order."""
    names = dict.fromkeys(prompt.category for prompt in prompts)
    return [CategoryOfPrompts(name or "no category", [p for p in prompts if p.category == name]) for name in names]


def _read(config: PromptSetConfig) -> tuple[Prompt, ...]:
    if not config.path.startswith("/"):
        name = config.format or format_of(Path(config.path))
        return read_hub_prompts(config.path, name, config.split, config.revision)
    if config.split is not None or config.revision is not None:
        raise ConfigError(f"evaluation.prompts: split and revision are of hub datasets, got a local path {config.path}")
    return read_prompts(Path(config.path), config.format)
