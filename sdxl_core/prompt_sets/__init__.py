"""Prompt sets: files of our own form, storyboards, and known sets. To add one: a reader, and its line in `FORMATS`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl_core.errors import UserError
from sdxl_core.prompt_sets import known
from sdxl_core.prompt_sets.hub import hub_rows
from sdxl_core.prompt_sets.own import read_own
from sdxl_core.prompt_sets.rows import WHERE
from sdxl_core.prompt_sets.storyboards import read_storyboards
from sdxl_core.prompts import Prompt


@dataclass(frozen=True)
class HubTable:
    """How a hub dataset holds the set."""

    split: str
    columns: tuple[str, ...]
    prompt: Callable[[Mapping[str, Any], str], Prompt]
    """(row, where it stands) -> its prompt."""


@dataclass(frozen=True)
class PromptFormat:
    read: Callable[[Path], Iterable[Prompt]]
    suffixes: tuple[str, ...]
    """Of its files."""
    takes_folder: bool = False
    repeats: bool = False
    """Whether a prompt may stand there several times; what is written for this project should not."""
    hub: HubTable | None = None


FORMATS: dict[str, PromptFormat] = {
    "own": PromptFormat(read_own, (".jsonl", ".txt")),
    "storyboards": PromptFormat(read_storyboards, (".yaml", ".yml", ".json")),
    "parti": PromptFormat(
        known.read_parti, (".tsv",), repeats=True, hub=HubTable("train", ("Prompt", "Category"), known.parti_row)
    ),
    "hpd": PromptFormat(known.read_hpd, (".json",), takes_folder=True, repeats=True),
    "geneval": PromptFormat(known.read_geneval, (".jsonl",), repeats=True),
    "t2i_compbench": PromptFormat(known.read_t2i_compbench, (".txt",), takes_folder=True, repeats=True),
    "dreambooth": PromptFormat(known.read_dreambooth, (".txt",), repeats=True),
    "pick_a_pic": PromptFormat(
        known.read_pick_a_pic,
        (".parquet",),
        takes_folder=True,
        repeats=True,
        hub=HubTable("validation_unique", ("caption",), known.pick_a_pic_row),
    ),
}


def format_of(path: Path) -> str:
    """The form of a file that is said to be in none: our own, or storyboards.

    Raises:
        UserError: its name says neither.
    """
    for name in ("own", "storyboards"):
        if path.suffix in FORMATS[name].suffixes:
            return name
    ours = [suffix for name in ("own", "storyboards") for suffix in FORMATS[name].suffixes]
    others = ", ".join(name for name in FORMATS if name not in ("own", "storyboards"))
    raise UserError(
        f"{WHERE}: {path.name} should end in {', '.join(ours[:-1])} or {ours[-1]}; a known set needs its format "
        f"named ({others}), as in {{path: ./{path.name}, format: ...}}"
    )


def read_prompts(path: Path, name: str | None = None) -> tuple[Prompt, ...]:
    """Read a local file or folder in the form `name`, by default the one that `format_of` says.

    Ids of known sets may stand several times (`PromptFormat.repeats`).

    Raises:
        UserError: it is missing, empty, in another form, or malformed, or an id of ours stands twice.
    """
    if not path.exists():
        raise UserError(f"{WHERE}: no such file: {path}")
    name = name or format_of(path)
    wanted = FORMATS[name]
    if path.is_dir() and not wanted.takes_folder:
        raise UserError(f"{WHERE}: {path}: expected a file ({' or '.join(wanted.suffixes)}), got a folder")
    if path.is_file() and path.suffix not in wanted.suffixes:
        raise UserError(f"{WHERE}: {path.name} should end in {' or '.join(wanted.suffixes)}, as format {name} does")
    return _checked(list(wanted.read(path)), str(path), wanted)


def read_hub_prompts(dataset: str, name: str, split: str | None, revision: str | None) -> tuple[Prompt, ...]:
    """The same of a hub dataset; `split` by default the one that is for evaluation.

    Raises:
        UserError: the set is in no hub dataset, or it cannot be had.
    """
    wanted = FORMATS[name]
    if wanted.hub is None:
        fix = f"A local path begins with ./: ./{dataset}"
        raise UserError.about(WHERE, expected=f"a local file of format {name}", got=repr(dataset), fix=fix)
    rows = hub_rows(dataset, split or wanted.hub.split, revision, wanted.hub.columns)
    return _checked([wanted.hub.prompt(row, where) for where, row in rows], dataset, wanted)


def _checked(prompts: Sequence[Prompt], place: str, wanted: PromptFormat) -> tuple[Prompt, ...]:
    if not prompts:
        raise UserError(f"{WHERE}: {place} holds no prompt")
    repeated = [found for found, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
    if repeated and not wanted.repeats:
        raise UserError(f"{WHERE}: {place}: the id {repeated[0]!r} (or its prompt) stands twice")
    return tuple(prompts)
