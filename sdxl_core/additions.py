"""What is put into a base to draw with it: LoRAs, and what trainings left. Importing this imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl_core.adapter_start import file_shapes
from sdxl_core.errors import UserError

TRAINED_FILE = "training.json"
"""What an export says of itself; its `training.adapter.kind` tells how to load it."""
SCALABLE = ("lora", "loha", "lokr")
"""Kinds of adapters that grow with a factor; of the others half is not half as much."""
IN_WORDS = {"full": "a full fine-tune", "none": "a textual inversion"}
_TEXT = ("text_encoder", "lora_te", "base_model.model.text_model")


@dataclass(frozen=True)
class Addition:
    """Something trained, at a strength."""

    place: Path
    """A LoRA file, or a folder that the trainer exported to."""
    scale: float = 1.0
    """Multiplies alpha, as the weights of diffusers' `set_adapters` do."""

    @property
    def kind(self) -> str:
        """Of adapter."""
        return "lora" if self.place.is_file() else str(_training(self.place)["adapter"]["kind"])

    @property
    def encodes_otherwise(self) -> bool:
        """Whether prompts mean something else with it: text encoders were trained, or new words."""
        if self.place.is_file():
            return any(name.startswith(_TEXT) for name in file_shapes(self.place))
        training = _training(self.place)
        return bool(training["text_encoders"] or training["new_tokens"])


def require_sum(terms: Sequence[tuple[str, str, float]], where: str) -> None:
    """`terms`: name for people, kind of adapter and scale of everything that goes into one base.

    Raises:
        UserError: one of them cannot be scaled, or they cannot be together.
    """
    for name, kind, scale in terms:
        if scale != 1 and kind not in SCALABLE:
            got = f"{name} at {scale:g}, which is {IN_WORDS.get(kind, kind)}"
            raise UserError.about(where, expected=f"a scale of 1 but for {', '.join(SCALABLE)}", got=got)
    others = [(name, kind) for name, kind, _ in terms if kind not in ("lora", "none")]
    alone = [name for name, kind in others if kind != "full"]
    if len(others) > 1 or (alone and len(terms) > 1):
        got = ", ".join(f"{name} ({IN_WORDS.get(kind, kind)})" for name, kind, _ in terms)
        raise UserError.about(where, expected="LoRAs, with one full fine-tune at most", got=got)


def _training(folder: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((folder / TRAINED_FILE).read_text(encoding="utf-8"))["training"]
    return described
