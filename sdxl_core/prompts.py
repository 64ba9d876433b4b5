"""Prompts: what to draw, how, and from which noise. docs/evaluation/prompts.md shows the files they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sdxl_core.config import SamplingConfig
from sdxl_core.errors import UserError
from sdxl_core.picture_settings import AS_CONFIGURED, PictureSettings


@dataclass(frozen=True)
class Prompt:
    id: str
    prompt: str
    category: str = ""
    settings: PictureSettings = AS_CONFIGURED
    """How its pictures differ from what `sampling` says."""
    seed_of: str = ""
    """Draws from the noise that a prompt of this id would; empty: from its own."""
    storyboard: str = ""
    """Which one it is a frame of."""
    frame: int = 0
    """Its place there, from 1 on."""

    @staticmethod
    def from_dict(row: Mapping[str, Any]) -> Prompt:
        """From what `as_dict` makes. Raises ValueError where a setting is none, or not of its type."""
        plain = {name: value for name, value in row.items() if name not in ("negative_prompt", "settings")}
        return Prompt(**plain, settings=picture_settings(row.get("negative_prompt"), row.get("settings", {})))

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without what it does not say: a prompt is known by what it says, however much it could."""
        return {"id": self.id, "prompt": self.prompt, "category": self.category, **self.further()}

    def further(self) -> dict[str, Any]:
        """What it says beside its text and category."""
        said = self.settings.model_dump(mode="json", exclude_none=True)
        negative = {"negative_prompt": said.pop("negative_prompt")} if "negative_prompt" in said else {}
        others = {"settings": said, "seed_of": self.seed_of, "storyboard": self.storyboard, "frame": self.frame}
        return negative | {name: value for name, value in others.items() if value}

    def sampling(self, sampling: SamplingConfig) -> SamplingConfig:
        """How its pictures are drawn, where `sampling` holds for all.

        Raises:
            UserError: its own settings do not go with those.
        """
        try:
            return self.settings.of(sampling)
        except ValidationError as error:
            mistake = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"evaluation.prompts: prompt {self.id}, with sampling as configured: {mistake}") from None

    def seed(self, base_seed: int, replicate: int) -> int:
        """Of its picture's initial noise."""
        return prompt_seed(base_seed, self.seed_of or self.id, replicate)


def picture_settings(negative_prompt: object, settings: Mapping[str, object]) -> PictureSettings:
    """Raises ValueError where a setting is unknown, or not of its type: a number written as text is none."""
    if "negative_prompt" in settings:
        raise ValueError("negative_prompt stands beside settings, not among them")
    return PictureSettings.model_validate({"negative_prompt": negative_prompt, **settings}, strict=True)


def prompt_seed(base_seed: int, prompt_id: str, replicate: int) -> int:
    """The seed of a picture's initial noise: 32 bits, independent of the prompt's place in its set."""
    digest = hashlib.sha256(f"{base_seed}/{prompt_id}/{replicate}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
