"""Pictures made elsewhere as an image set: which file is whose, and their pixels. Importing this imports no decoder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sdxl_core.data.sources.base import Folder, Problem, confine, list_folder
from sdxl_core.data.sources.imagefolder import METADATA, Line, read_metadata
from sdxl_core.errors import UserError
from sdxl_core.prompts import Prompt

Key = tuple[str, int]
"""Prompt id, replicate."""
MAX_MEGAPIXELS = 100.0
_MOST_NAMED = 3


@dataclass
class _Found:
    """What a folder holds for a prompt set."""

    files: dict[Key, Path] = field(default_factory=dict)
    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """What is wrong -> where."""

    def take(self, key: Key, path: Path, where: str) -> None:
        if key in self.files:
            self.wrong["for a prompt and replicate that has one"].append(f"{where} ({_name(key)})")
        else:
            self.files[key] = path


def find_given_pictures(folder: Path, prompts: Sequence[Prompt], replicates: int, where: str) -> dict[Key, Path]:
    """The picture of every prompt and replicate, by `metadata.jsonl` or else by file names. Decodes none.

    Raises:
        UserError: some are missing, surplus, there twice or outside the folder: how many, and the first three.
    """
    listed = list_folder(folder, where)
    found = _Found()
    for problem in listed.problems:
        found.wrong["that cannot be used"].append(f"{problem.where}: {problem.reason}")
    wanted = {(prompt.id, replicate) for prompt in prompts for replicate in range(replicates)}
    if METADATA in listed.files:
        _by_metadata(listed, prompts, replicates, found)
    else:
        _by_name(listed, wanted, found)
    found.wrong["missing"] += [_name(key) for key in sorted(wanted - found.files.keys())]
    refuse_wrong(found.wrong, f"{where} {folder}")
    return found.files


def refuse_wrong(wrong: Mapping[str, Sequence[str]], where: str) -> None:
    """Raises UserError where there is any."""
    kinds = [
        f"{len(names)} {what}: {', '.join(names[:_MOST_NAMED])}{', ...' if len(names) > _MOST_NAMED else ''}"
        for what, names in wrong.items()
        if names
    ]
    if kinds:
        fix = f"docs/evaluation/models.md says what {METADATA} and file names should be"
        expected = "one picture for every prompt and replicate"
        raise UserError.about(where, expected=expected, got="; ".join(kinds), fix=fix)


def _by_metadata(folder: Folder, prompts: Sequence[Prompt], replicates: int, found: _Found) -> None:
    ids, by_text = {prompt.id for prompt in prompts}, defaultdict(list)
    for prompt in prompts:
        by_text[prompt.prompt].append(prompt.id)
    listed: set[str] = set()
    seen: dict[str, int] = defaultdict(int)
    for line in read_metadata(folder.root / METADATA):
        try:
            name, path = _listed_file(folder, line)
            listed.add(name)
            prompt_id = _prompt_of(line, ids, by_text)
        except ValueError as reason:
            found.wrong["lines that cannot be used"].append(f"{line.where}: {reason}")
            continue
        assert isinstance(line, Line)
        replicate = line.values.get("replicate", seen[prompt_id])
        seen[prompt_id] += 1
        if isinstance(replicate, bool) or not isinstance(replicate, int) or replicate not in range(replicates):
            found.wrong[f"surplus (replicates are 0 to {replicates - 1})"].append(f"{line.where}: {replicate!r}")
            continue
        found.take((prompt_id, replicate), path, name)
    found.wrong[f"surplus (not in {METADATA})"] += [name for name in folder.pictures if name not in listed]


def _listed_file(folder: Folder, line: Line | Problem) -> tuple[str, Path]:
    """Raises ValueError with what is wrong with it."""
    if isinstance(line, Problem):
        raise ValueError(line.reason)
    value = line.values.get("file_name")
    try:
        path = confine(folder.root, value)
    except ValueError as reason:
        raise ValueError(f"file_name {value!r}: {reason}") from None
    name = PurePosixPath(str(value)).as_posix()
    if name not in folder.files:
        raise ValueError(f"{name}: no such file")
    return name, path


def _prompt_of(line: Line | Problem, ids: set[str], by_text: Mapping[str, Sequence[str]]) -> str:
    """Raises ValueError where it names none of the set's, or two."""
    assert isinstance(line, Line)
    if "prompt_id" in line.values:
        prompt_id = line.values["prompt_id"]
        if prompt_id not in ids:
            raise ValueError(f"prompt_id {prompt_id!r} is not in the prompt set")
        return str(prompt_id)
    text = line.values.get("prompt")
    if not isinstance(text, str):
        raise ValueError("neither prompt_id nor prompt")
    matching = by_text.get(text, ())
    if len(matching) != 1:
        raise ValueError(f"prompt {text[:60]!r} is of {len(matching)} prompts of the set; say prompt_id")
    return matching[0]


def _by_name(folder: Folder, wanted: set[Key], found: _Found) -> None:
    names: dict[str, set[Key]] = defaultdict(set)
    for prompt_id, replicate in wanted:
        names[f"{prompt_id}-{replicate}"].add((prompt_id, replicate))
        if replicate == 0:
            names[prompt_id].add((prompt_id, replicate))
    for name in folder.pictures:
        matching = names.get(PurePosixPath(name).stem, set())
        if len(matching) == 1:
            found.take(next(iter(matching)), folder.root / name, name)
        else:
            what = f"of two prompts, by their names; write {METADATA}" if matching else "surplus (of no prompt)"
            found.wrong[what].append(name)


def _name(key: Key) -> str:
    return f"{key[0]}-{key[1]}"


def take_over_pictures(
    files: Mapping[Key, Path],
    prompts: Sequence[Prompt],
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write the pictures' pixels, losslessly, as an image set into `out`. Returns {"pictures"}.

    Raises:
        UserError: some cannot be decoded: how many, and the first three.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    wrong: dict[str, list[str]] = {"that cannot be decoded": []}
    lines = []
    for done, (prompt, replicate, path) in enumerate(_in_order(files, prompts)):
        progress(done, len(files))
        try:
            record = _take_over(prompt, replicate, path, out)
        except ValueError as reason:
            wrong["that cannot be decoded"].append(f"{path.name}: {reason}")
            continue
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    refuse_wrong(wrong, "evaluation: pictures made elsewhere")
    (out / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    (out / "set.json").write_text(json.dumps({"drawn": "elsewhere"}, indent=1) + "\n", encoding="utf-8")
    return {"pictures": len(lines)}


def _in_order(files: Mapping[Key, Path], prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, int, Path]]:
    order = {prompt.id: (place, prompt) for place, prompt in enumerate(prompts)}
    for prompt_id, replicate in sorted(files, key=lambda key: (order[key[0]][0], key[1])):
        yield order[prompt_id][1], replicate, files[prompt_id, replicate]


def _take_over(prompt: Prompt, replicate: int, path: Path, out: Path) -> dict[str, object]:
    """Returns the picture's record. Raises ValueError where it is none."""
    from sdxl_core.data.decode import decode, read_picture
    from sdxl_core.picture_files import pixel_digest, png_bytes

    png = png_bytes(decode(read_picture(path, MAX_MEGAPIXELS), MAX_MEGAPIXELS).image, {})
    file = f"images/{prompt.id}-{replicate}.png"
    (out / file).write_bytes(png)
    told = {"storyboard": prompt.storyboard, "frame": prompt.frame} if prompt.storyboard else {}
    return {
        "file": file,
        "prompt_id": prompt.id,
        "prompt": prompt.prompt,
        "category": prompt.category,
        "replicate": replicate,
        "seed": None,
        "image_sha256": pixel_digest(png),
        **told,
    }
