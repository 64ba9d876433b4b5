"""Templates: prompts that leave open what they show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from sdxl_core.errors import UserError
from sdxl_core.prompts import Prompt

SUBJECT = "{subject}"
BARE = "{bare_subject}"
"""The subject without its article, as in `a red {bare_subject}`."""
_ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)


def fill(prompts: Sequence[Prompt], subject: str | None, where: str) -> tuple[Prompt, ...]:
    """Put the subject into the templates. Their ids stay, so that all subjects are drawn from the same noise.

    Raises:
        UserError: a template has no subject given, or a subject is given that no prompt uses.
    """
    open_ones = [prompt for prompt in prompts if _placeholders(prompt)]
    if subject is None and open_ones:
        raise UserError(
            f"{where}: {len(open_ones)} of {len(prompts)} prompts leave {SUBJECT} open, such as "
            f'"{open_ones[0].prompt}": set evaluation.subject ("a sks person")'
        )
    if subject is None:
        return tuple(prompts)
    if not open_ones:
        raise UserError(
            f"evaluation.subject = {subject!r}: none of the {len(prompts)} prompts of {where} has {SUBJECT} in it; "
            "leave the subject out, or take templates such as configs/prompts/character.jsonl"
        )
    return tuple(_filled(prompt, subject.strip()) for prompt in prompts)


def _placeholders(prompt: Prompt) -> bool:
    texts = (prompt.prompt, prompt.settings.negative_prompt or "")
    return any(placeholder in text for placeholder in (SUBJECT, BARE) for text in texts)


def _filled(prompt: Prompt, subject: str) -> Prompt:
    bare, negative = _ARTICLE.sub("", subject), prompt.settings.negative_prompt

    def put(text: str) -> str:
        return text.replace(SUBJECT, subject).replace(BARE, bare)

    settings = prompt.settings
    if negative is not None:
        settings = settings.model_copy(update={"negative_prompt": put(negative)})
    return replace(prompt, prompt=put(prompt.prompt), settings=settings)
