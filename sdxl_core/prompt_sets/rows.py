"""What all readers of prompt files share: ids, texts, and errors that name the line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdxl_core.errors import UserError
from sdxl_core.prompts import Prompt

WHERE = "evaluation.prompts"


def text_id(text: str) -> str:
    """The id of a prompt that was given none: what is beside it changes neither that nor its noise."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def prompt_of(text: str, category: str = "") -> Prompt:
    """A prompt that is known by its text."""
    text = text.strip()
    return Prompt(text_id(text), text, category.strip())


def checked_id(found: str, where: str) -> str:
    """Raises UserError where no file could be named by it."""
    safe = found.replace("-", "").replace("_", "")
    if not (safe.isalnum() and safe.isascii()):
        raise UserError(f"{where}: id {found!r} should hold letters, digits, - and _ alone: it names files")
    return found


def read_text(path: Path) -> str:
    """Raises UserError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{WHERE}: {path}: expected UTF-8 text, got other bytes at {error.start}") from None


def text_lines(path: Path) -> Iterator[str]:
    """What is on the lines that hold something."""
    return (line.strip() for line in read_text(path).split("\n") if line.strip())


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, object) of every line that holds something. Raises UserError where that is no JSON object."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{WHERE}: {path}, line {number}"
        row = parsed_json(line, where)
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected a JSON object, got {line[:80]}")
        yield where, row


def parsed_json(text: str, where: str) -> Any:
    """Raises UserError where it is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def said(error: ValueError) -> str:
    """What is wrong, in one line: pydantic's first mistake with its key, or the error's own words."""
    if not isinstance(error, ValidationError):
        return str(error)
    mistake = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in mistake["loc"])
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if mistake["type"] == "missing":
        return f"{key}: missing"
    if mistake["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    return f"{key}: {message}, got {mistake['input']!r}"[:300]
