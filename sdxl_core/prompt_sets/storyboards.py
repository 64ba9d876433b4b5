"""Storyboards: the same character and scene in a series of frames, all drawn from the same noise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from sdxl_core.config import Config
from sdxl_core.errors import UserError
from sdxl_core.picture_settings import PictureSettings
from sdxl_core.plain_yaml import parse_yaml
from sdxl_core.prompt_sets.rows import WHERE, checked_id, parsed_json, read_text, said
from sdxl_core.prompts import Prompt, picture_settings

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
PLACES = ("{character}", "{scene}")


class Frame(Config):
    prompt: Text
    negative_prompt: str | None = None
    settings: Mapping[str, Any] = Field(default_factory=dict)


class Storyboard(Config):
    logline: str = ""
    """What happens, for those who read the file; no model sees it."""
    character: Text
    """Who is in every frame; may be `{subject}`."""
    scene: Text
    """Where every frame is."""
    frames: Annotated[tuple[Frame, ...], Field(min_length=1, max_length=99)]
    """What is done in each, in order: the words after the character, or, with `{character}` or `{scene}` in it, all."""
    negative_prompt: str | None = None
    """Of every frame that has none of its own."""
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """As `negative_prompt`, key by key."""

    @field_validator("frames", mode="before")
    @classmethod
    def _words_alone(cls, frames: Any) -> Any:
        listed = isinstance(frames, list)
        return [{"prompt": frame} if isinstance(frame, str) else frame for frame in frames] if listed else frames

    def words(self, frame: str) -> str:
        """A frame's prompt."""
        whole = frame if any(place in frame for place in PLACES) else f"{{character}} {frame}, {{scene}}"
        return whole.replace("{character}", self.character.strip()).replace("{scene}", self.scene.strip())

    def drawn(self, frame: Frame) -> PictureSettings:
        """Raises ValueError where a setting is none."""
        own = self.negative_prompt if frame.negative_prompt is None else frame.negative_prompt
        return picture_settings(own, {**self.settings, **frame.settings})


def read_storyboards(path: Path) -> Iterator[Prompt]:
    """One board, named by its file, or several below `storyboards:`, each below its name. YAML or JSON.

    Raises:
        UserError: naming the board, and what is wrong with it.
    """
    text, where = read_text(path), f"{WHERE}: {path}"
    document = parsed_json(text, where) if path.suffix == ".json" else parse_yaml(text, where)
    if not isinstance(document, dict):
        raise UserError(f"{where}: expected a storyboard (character, scene, frames) or `storyboards:` with several")
    boards = document.get("storyboards", {_slug(path.stem): document})
    if not isinstance(boards, dict) or ("storyboards" in document and len(document) > 1):
        raise UserError(f"{where}: storyboards: expected a storyboard below each name, and nothing beside them")
    for name, board in boards.items():
        yield from _frames(checked_id(str(name), f"{where}: storyboards"), board, f"{where}: storyboard {name}")


def _frames(name: str, document: object, where: str) -> Iterator[Prompt]:
    try:
        board = Storyboard.model_validate(document)
        for number, frame in enumerate(board.frames, start=1):
            yield Prompt(
                id=f"{name}-{number:02d}",
                prompt=board.words(frame.prompt.strip()),
                category=name,
                settings=board.drawn(frame),
                seed_of=name,
                storyboard=name,
                frame=number,
            )
    except ValueError as error:
        raise UserError(f"{where}: {said(error)}") from None


def _slug(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-") or "storyboard"
