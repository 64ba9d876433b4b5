"""Known prompt sets, each read from its own published form. None is part of this project; docs name their licences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdxl_core.errors import UserError
from sdxl_core.prompt_sets.rows import WHERE, json_lines, parsed_json, prompt_of, read_text, text_lines
from sdxl_core.prompt_sets.subject import BARE, SUBJECT
from sdxl_core.prompts import Prompt

_FORMATTED = re.compile(r"""^\s*(['"])(?P<text>.*\{0\} \{1\}.*)\1\.format\(""")
_HEADING = re.compile(r"^(?P<name>.+) Prompts\s*$")


def read_parti(path: Path) -> Iterator[Prompt]:
    """PartiPrompts.tsv (Yu et al. 2022): Prompt, Category, Challenge, Note. Quotation marks are part of the prompts."""
    header, *lines = read_text(path).split("\n")
    names = header.strip().split("\t")
    for number, line in enumerate(lines, start=2):
        if line.strip():
            yield parti_row(dict(zip(names, line.split("\t"), strict=False)), f"{WHERE}: {path}, line {number}")


def parti_row(row: Mapping[str, Any], where: str) -> Prompt:
    return prompt_of(_cell(row, "Prompt", where), _cell(row, "Category", where))


def read_hpd(path: Path) -> Iterator[Prompt]:
    """HPDv2's benchmark (Wu et al. 2023): a list of prompts in JSON, or a folder with such a list for each style."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{WHERE}: {path}: expected a .json file for each style (anime, concept-art, ...), got none")
    for file in files:
        where = f"{WHERE}: {file}"
        listed = parsed_json(read_text(file), where)
        if not isinstance(listed, list):
            raise UserError(f"{where}: expected a JSON list of prompts, got {type(listed).__name__}")
        for place, entry in enumerate(listed):
            row = entry if isinstance(entry, dict) else {"prompt": entry}
            yield prompt_of(_cell(row, "prompt", f"{where}, entry {place}"), file.stem)


def read_geneval(path: Path) -> Iterator[Prompt]:
    """GenEval's evaluation_metadata.jsonl (Ghosh et al. 2023): its `tag` is the category."""
    for where, row in json_lines(path):
        yield prompt_of(_cell(row, "prompt", where), _cell(row, "tag", where))


def read_t2i_compbench(path: Path) -> Iterator[Prompt]:
    """T2I-CompBench (Huang et al. 2023): a file of one prompt a line, or the folder of such files.

    The category is the file's name without `_train` or `_val`. Of a folder, the `_val` files alone are read where there
    are any, as its benchmark does.
    """
    files = sorted(path.glob("*_val.txt")) or sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{WHERE}: {path}: expected .txt files such as color_val.txt, got none")
    for file in files:
        for line in text_lines(file):
            yield prompt_of(line, re.sub(r"_(train|val)$", "", file.stem))


def read_dreambooth(path: Path) -> Iterator[Prompt]:
    """DreamBooth's prompts_and_classes.txt (Ruiz et al. 2022): templates, of the categories `object` and `live`.

    `a {0} {1}` is the subject with its article; elsewhere, `{0} {1}` is the subject without.
    """
    category = ""
    for line in text_lines(path):
        if heading := _HEADING.match(line):
            category = heading["name"].lower().removesuffix(" subject")
        elif found := _FORMATTED.match(line):
            text = found["text"].replace("a {0} {1}", SUBJECT).replace("{0} {1}", BARE)
            yield prompt_of(text, category)


def read_pick_a_pic(path: Path) -> Iterator[Prompt]:
    """Pick-a-Pic (Kirstain et al. 2023): parquet files with a column `caption`, the only one that is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{WHERE}: {path}: expected .parquet files, got none")
    for file in files:
        try:
            columns = pq.read_schema(file).names
            captions = pq.read_table(file, columns=["caption"] if "caption" in columns else []).to_pylist()
        except pa.ArrowException as error:
            raise UserError(f"{WHERE}: {file}: not a parquet file: {str(error).splitlines()[0]}") from None
        for place, row in enumerate(captions):
            yield pick_a_pic_row(row, f"{WHERE}: {file}, row {place}")


def pick_a_pic_row(row: Mapping[str, Any], where: str) -> Prompt:
    return prompt_of(_cell(row, "caption", where))


def _cell(row: Mapping[str, Any], name: str, where: str) -> str:
    found = row.get(name)
    if not isinstance(found, str) or not found.strip():
        raise UserError(f"{where}: expected text as {name!r}, got {found!r}"[:300])
    return found
