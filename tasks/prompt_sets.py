"""From `evaluation.prompts` and `evaluation.subject` to the prompts that are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.config import EvaluationConfig, PromptSetConfig
from sdxl_core.config import SamplingConfig
from sdxl_core.prompt_sets import format_of, read_hub_prompts, read_prompts
from sdxl_core.prompt_sets.choice import divided, first_in_turn, of_categories, once_each, stratified
from sdxl_core.prompt_sets.subject import fill
from sdxl_core.prompts import Prompt
from tasks.errors import ConfigError
from tasks.yaml_config import build_section


@dataclass(frozen=True)
class PromptSet:
    """What is drawn: every prompt `replicates` times, with noise that follows from the seed and the prompt's id."""

    prompts: Sequence[Prompt]
    replicates: int
    seed: int


def drawn_prompts(evaluation: EvaluationConfig, sampling: SamplingConfig) -> tuple[Prompt, ...]:
    """What is read, chosen and filled in.

    Raises:
        UserError: the file, the choice or the subject does not fit, or a prompt's own settings not `sampling`.
    """
    prompts = chosen_prompts(evaluation.prompt_set, evaluation.subject)
    for prompt in prompts:
        prompt.sampling(sampling)
    return prompts


def looks_at(evaluation: EvaluationConfig, prompts: Sequence[Prompt]) -> tuple[PromptSet, ...]:
    """What is drawn at most before each look at the statistics: all at once, or batch by batch, each holding the one
    before.

    Raises:
        ConfigError: a sequential evaluation of storyboards, or of fewer prompts than its first look needs.
    """
    total, settings = len(prompts), evaluation.sequential
    if evaluation.stop == "fixed":
        return (PromptSet(prompts, evaluation.replicates, evaluation.seed),)
    if any(prompt.storyboard for prompt in prompts):
        raise ConfigError("evaluation.stop: sequential would tear storyboards apart; set evaluation.stop=fixed")
    if total < settings.first_prompts:
        raise ConfigError.about(
            "evaluation.prompts",
            expected=f"{settings.first_prompts} prompts or more, which the first look of stop: sequential needs",
            got=total,
            fix="set evaluation.stop=fixed, or evaluation.sequential.first_prompts",
        )
    counts = [*range(settings.first_prompts, total, settings.every_prompts), total]
    batches = (first_in_turn(prompts, count, evaluation.seed) for count in counts)
    return tuple(PromptSet(batch, evaluation.replicates, evaluation.seed) for batch in batches)


def choosing_and_judging(
    evaluation: EvaluationConfig, prompts: Sequence[Prompt]
) -> tuple[PromptSet | None, Sequence[Prompt]]:
    """-> what the best of several candidates is chosen on, and the prompts that it is judged on.

    Raises:
        ConfigError: there are too few prompts to divide.
    """
    selection = evaluation.selection
    if selection is None:
        return None, prompts
    first, rest = divided(prompts, selection.share, selection.seed)
    if not first or not rest:
        expected = "prompts, or storyboards, enough to choose by some and judge by others"
        raise ConfigError.about("evaluation.selection", expected=expected, got=len(prompts))
    return PromptSet(first, evaluation.replicates, evaluation.seed), rest


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
