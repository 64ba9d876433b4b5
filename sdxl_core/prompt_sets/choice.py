"""Which prompts of a set are drawn: of some categories, and a sample in which every category has its share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sdxl_core.errors import UserError, did_you_mean
from sdxl_core.prompts import Prompt


def of_categories(prompts: Sequence[Prompt], categories: Sequence[str], where: str) -> list[Prompt]:
    """Those of the categories, all where none is named.

    Raises:
        UserError: there is no such category.
    """
    known = sorted({prompt.category for prompt in prompts})
    for category in categories:
        if category not in known:
            raise UserError(
                f"{where}: categories: there is no {category!r}, but {', '.join(map(repr, known))}. "
                f"{did_you_mean(category, known)}".rstrip()
            )
    return [prompt for prompt in prompts if not categories or prompt.category in categories]


def once_each(prompts: Sequence[Prompt]) -> list[Prompt]:
    """What stands several times, once; in several categories, in one that is named after all of them."""
    categories: dict[str, set[str]] = {}
    for prompt in prompts:
        categories.setdefault(prompt.id, set()).add(prompt.category)
    first = {prompt.id: prompt for prompt in reversed(prompts)}
    return [replace(first[name], category="+".join(sorted(found))) for name, found in categories.items()]


def stratified(prompts: Sequence[Prompt], count: int, seed: int, where: str) -> list[Prompt]:
    """So many, in their order, each category with its share. A larger sample holds a smaller one.

    Raises:
        UserError: there are not so many.
    """
    if count > len(prompts):
        raise UserError(f"{where}: sample: expected at most {len(prompts)}, the number of prompts, got {count}")
    return first_in_turn(prompts, count, seed)


def first_in_turn(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """The first so many, in the set's order, of a drawing in which every category has its share at all times.

    Places are given after Sainte-Laguë: the k-th of a category of m comes when (k - 1/2) / m of all are drawn. Within a
    category they come in the order of a hash of seed and id. So the drawing does not depend on the set's order.
    """

    def drawn_at(prompt: Prompt) -> bytes:
        return hashlib.sha256(f"{seed}/{prompt.id}".encode()).digest()

    sizes = Counter(prompt.category for prompt in prompts)
    seen: Counter[str] = Counter()
    turns = []
    for prompt in sorted(prompts, key=drawn_at):
        turns.append(((seen[prompt.category] + 0.5) / sizes[prompt.category], drawn_at(prompt), prompt.id))
        seen[prompt.category] += 1
    chosen = {name for _, _, name in sorted(turns)[:count]}
    return [prompt for prompt in prompts if prompt.id in chosen]


def divided(prompts: Sequence[Prompt], share: float, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """A share of the prompts, every category with its own, and the rest; both in the set's order, storyboards whole."""
    heads = list({prompt.storyboard or prompt.id: prompt for prompt in reversed(prompts)}.values())
    first = {prompt.storyboard or prompt.id for prompt in first_in_turn(heads, round(share * len(heads)), seed)}
    chosen = [prompt for prompt in prompts if (prompt.storyboard or prompt.id) in first]
    return chosen, [prompt for prompt in prompts if (prompt.storyboard or prompt.id) not in first]
