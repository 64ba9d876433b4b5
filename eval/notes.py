"""What whoever made weights wants read beside their numbers: that they are a toy, or for research only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DESCRIPTIONS = ("config.json", "manifest.json")
LONGEST = 300
LARGEST_BYTES = 1 << 20


def note_of(place: Path) -> str:
    """The `note` in a folder's config.json or manifest.json, or in the metadata of a .safetensors file.

    In one line of at most 300 printable characters; empty where there is none. It is not our text: escape it.
    """
    if place.is_dir():
        note = next((found for name in DESCRIPTIONS if (found := _in_json(place / name))), "")
    else:
        note = _in_metadata(place) if place.suffix == ".safetensors" else ""
    if not isinstance(note, str):
        return ""
    return "".join(letter for letter in " ".join(note.split()) if letter.isprintable())[:LONGEST]


def _in_json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            return ""
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # whether it has to be readable is for those to say who need it
        return ""
    return described.get("note", "") if isinstance(described, dict) else ""


def _in_metadata(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as stored:
            return (stored.metadata() or {}).get("note", "")
    except (OSError, SafetensorError):
        return ""
