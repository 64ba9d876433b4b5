"""`make-metadata`: list the pictures of a folder in a metadata.jsonl, to be edited by hand."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path, PurePosixPath

from sdxl_core.config import DatasetConfig
from sdxl_core.data.sources.base import Folder, Problem, caption_from, open_folder, require_column
from sdxl_core.data.sources.imagefolder import METADATA, Line, read_metadata
from sdxl_core.errors import UserError


def make_metadata(
    directory: Path,
    prompt: str,
    *,
    extend: bool = False,
    overwrite: bool = False,
    image_column: str = "file_name",
    caption_column: str = "text",
) -> dict[str, int]:
    """Write `directory`/metadata.jsonl with `prompt` as the caption of each picture, sub-folders included.

    The file is replaced in one step, so that a crash leaves the old one or the new one.

    Args:
        directory: where the pictures are.
        prompt: the caption.
        extend: keep an existing file's lines as they are, and add the pictures it does not list.
        overwrite: replace an existing file, captions and all.
        image_column: key of the file name in a line.
        caption_column: key of the caption in a line.

    Returns: {"kept": lines, "added": lines}.

    Raises:
        UserError: no folder, no pictures, an empty prompt, pictures that a dataset could not hold, or a file is there
            already and neither `extend` nor `overwrite` is asked.
    """
    if extend and overwrite:
        raise UserError("make-metadata: extend keeps an existing file and overwrite replaces it; choose one")
    try:
        text = caption_from(prompt, None)
    except ValueError as error:
        raise UserError.about("make-metadata --prompt", expected="a caption", got=error) from None
    folder = open_folder(DatasetConfig(path=str(directory)))
    _refuse_problems(folder)
    path = directory / METADATA
    kept = path.read_bytes() if _kept(path, extend=extend, overwrite=overwrite) else b""
    listed = _listed(path, image_column) if kept else frozenset[str]()
    added = [name for name in folder.pictures if name not in listed]
    lines = [json.dumps({image_column: name, caption_column: text}, ensure_ascii=False) + "\n" for name in added]
    gap = b"\n" if kept and not kept.endswith(b"\n") else b""
    _replace(path, kept + gap + "".join(lines).encode())
    return {"kept": len(listed), "added": len(added)}


def _refuse_problems(folder: Folder) -> None:
    if folder.problems:
        named = "\n".join(f"  {problem.where}: {problem.reason}" for problem in folder.problems)
        raise UserError(f"make-metadata {folder.root}: cannot be listed:\n{named}")
    if not folder.pictures:
        raise UserError.about(f"make-metadata {folder.root}", expected="pictures", got="none")


def _kept(path: Path, *, extend: bool, overwrite: bool) -> bool:
    """Whether there is a file whose lines stay."""
    if path.exists() and not (extend or overwrite):
        raise UserError.about(
            str(path),
            expected="no such file yet",
            got="one with captions",
            fix="--extend keeps them and adds pictures that are not listed, --overwrite replaces them",
        )
    return path.exists() and extend


def _listed(path: Path, image_column: str) -> frozenset[str]:
    found = [*read_metadata(path)]
    lines = [line for line in found if isinstance(line, Line)]
    if broken := [line for line in found if isinstance(line, Problem)]:
        raise UserError(f"make-metadata: {broken[0].where}: {broken[0].reason}; mend it first")
    require_column("image_column", image_column, {key for line in lines for key in line.values}, METADATA)
    return frozenset(PurePosixPath(str(line.values.get(image_column))).as_posix() for line in lines)


def _replace(path: Path, content: bytes) -> None:
    handle, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(staged, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(staged, path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
