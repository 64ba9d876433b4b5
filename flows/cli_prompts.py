"""`sdxl-flows prompts`: what a prompt set expands to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import console

PromptFile = Annotated[str, typer.Argument(metavar="FILE", help="Prompt file, folder of them, or hub dataset.")]
Format = Annotated[str | None, typer.Option("--format", help="Of a known set, such as parti; as evaluation.prompts.")]
Categories = Annotated[list[str] | None, typer.Option("--category", help="Only this one. Repeatable.")]
Sample = Annotated[int | None, typer.Option("--sample", help="Only so many, every category with its share.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the sample.")]
Subject = Annotated[str | None, typer.Option("--subject", help="What stands for {subject}: 'a sks person'.")]
Lines = Annotated[int, typer.Option("--lines", min=0, help="How many prompts of each category are shown.")]


def prompts(
    file: PromptFile,
    format: Format = None,
    categories: Categories = None,
    sample: Sample = None,
    seed: Seed = 0,
    subject: Subject = None,
    lines: Lines = 2,
) -> None:
    """Say what a prompt set expands to: how many of each category, the first of them, and their own settings.

    Examples: `sdxl-flows prompts configs/prompts/dev.jsonl`,
    `sdxl-flows prompts configs/prompts/character.jsonl --subject "a sks person"`,
    `sdxl-flows prompts PartiPrompts.tsv --format parti --sample 200`
    """
    from tasks.prompt_sets import asked_prompts, overview

    place = str(Path(file).resolve()) if Path(file).exists() else file
    asked = {"path": place, "format": format, "categories": categories or [], "sample": sample, "seed": seed}
    found = asked_prompts(asked, subject)
    for category in overview(found):
        console.out(f"{category.name}: {len(category.prompts)}")
        console.table([("", prompt.id, _shown(prompt.prompt, prompt.further())) for prompt in category.prompts[:lines]])
    console.out(f"{len(found)} prompts")


def _shown(text: str, further: dict[str, object]) -> str:
    own = "; ".join(
        f"{name} {value}" for name, value in further.items() if name not in ("seed_of", "storyboard", "frame")
    )
    return f"{text} [{own}]" if own else text
