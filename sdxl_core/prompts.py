"""Prompt sets: what to generate, and from which noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sdxl_core.errors import UserError


@dataclass(frozen=True)
class Prompt:
    id: str
    prompt: str
    category: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read a prompt set: `.jsonl` with `prompt` and, if wanted, `id` and `category` a line; or `.txt`, one a line.

    A prompt without an id gets one from its text, so that adding or reordering prompts changes no other prompt's noise.

    Raises:
        UserError: the file is missing, empty, of another kind, a line is malformed, or an id stands twice.
    """
    if not path.is_file():
        raise UserError(f"evaluation.prompts: no such file: {path}")
    if path.suffix not in (".jsonl", ".txt"):
        raise UserError(f"evaluation.prompts: {path.name} should end in .jsonl or .txt")
    text = path.read_text(encoding="utf-8")
    prompts = tuple(_json_lines(path, text) if path.suffix == ".jsonl" else _plain_lines(text))
    if not prompts:
        raise UserError(f"evaluation.prompts: {path} holds no prompt")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise UserError(f"evaluation.prompts: {path}: the id {prompt.id!r} (or its prompt) stands twice")
        seen.add(prompt.id)
    return prompts


def prompt_seed(base_seed: int, prompt_id: str, replicate: int) -> int:
    """The seed of a picture's initial noise: 32 bits, independent of the prompt's place in its set."""
    digest = hashlib.sha256(f"{base_seed}/{prompt_id}/{replicate}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _plain_lines(text: str) -> Iterator[Prompt]:
    for line in text.splitlines():
        if line.strip():
            yield _prompt(line.strip())


def _json_lines(path: Path, text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"evaluation.prompts: {path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise UserError(f'{where}: expected {{"prompt": "...", "id": "...", "category": "..."}}, got {line[:80]}')
        if unknown := sorted(row.keys() - {"prompt", "id", "category"}):
            raise UserError(f"{where}: unknown key {unknown[0]!r}; expected prompt, id or category")
        yield _prompt(row["prompt"], str(row.get("id") or ""), str(row.get("category") or ""), where)


def _prompt(text: str, prompt_id: str = "", category: str = "", where: str = "") -> Prompt:
    safe = prompt_id.replace("-", "").replace("_", "")
    if prompt_id and not (safe.isalnum() and safe.isascii()):
        raise UserError(f"{where}: id {prompt_id!r} should hold letters, digits, - and _ alone: it names files")
    return Prompt(prompt_id or hashlib.sha256(text.encode()).hexdigest()[:12], text, category)
