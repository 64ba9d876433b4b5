"""Prompt sets of our own form: `.jsonl`, one object a line, or `.txt`, one prompt a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdxl_core.errors import UserError, did_you_mean
from sdxl_core.prompt_sets.rows import checked_id, json_lines, prompt_of, said, text_id, text_lines
from sdxl_core.prompts import Prompt, picture_settings

KEYS = ("prompt", "id", "category", "negative_prompt", "settings", "seed_of")


def read_own(path: Path) -> Iterator[Prompt]:
    """`.jsonl` or `.txt`. Raises UserError naming the line."""
    if path.suffix == ".txt":
        return (prompt_of(line) for line in text_lines(path))
    return (_prompt(row, where) for where, row in json_lines(path))


def _prompt(row: dict[str, Any], where: str) -> Prompt:
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise UserError(f'{where}: expected {{"prompt": "...", "id": "...", "category": "..."}}, got {str(row)[:80]}')
    if unknown := sorted(row.keys() - set(KEYS)):
        hint = did_you_mean(unknown[0], KEYS)
        raise UserError(f"{where}: unknown key {unknown[0]!r}; expected one of {', '.join(KEYS)}. {hint}".rstrip())
    if not isinstance(row.get("settings", {}), dict):
        raise UserError(f'{where}: settings: expected an object such as {{"steps": 20}}, got {row["settings"]!r}')
    try:
        settings = picture_settings(row.get("negative_prompt"), row.get("settings", {}))
    except ValueError as error:
        raise UserError(f"{where}: {said(error)}") from None
    return Prompt(
        id=checked_id(str(row["id"]), where) if row.get("id") else text_id(row["prompt"]),
        prompt=row["prompt"],
        category=str(row.get("category") or ""),
        settings=settings,
        seed_of=checked_id(str(row["seed_of"]), where) if row.get("seed_of") else "",
    )
