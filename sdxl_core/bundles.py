"""The bundles of one run as folders: whole or not, which one to go on from, which ones to keep. Imports no torch.

`step-<n>/` holds files and, written last, `manifest.json` with the size and sha256 of each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from sdxl_core.disk import file_sha256
from sdxl_core.errors import UserError

MANIFEST = "manifest.json"
STAGING = ".staging-"
"""Begins the names of what is on its way in or out, and never read."""


def bundle_name(step: int) -> str:
    return f"step-{step:08d}"


def bundle_step(path: Path) -> int:
    """Raises UserError for a folder that is not named like a bundle."""
    number = path.name.removeprefix("step-")
    if not number.isdecimal():
        raise UserError(f"{path}: expected a bundle, a folder step-<n>")
    return int(number)


def steps_of(folder: Path) -> list[tuple[int, Path]]:
    """Bundles below `folder`, whole or not, oldest step first."""
    return sorted((bundle_step(path), path) for path in folder.glob("step-*") if path.name[5:].isdecimal())


def newest_bundle(
    folder: Path,
    max_step: int,
    log: Callable[[str], None],
    *,
    allow_fresh: bool = False,
    problem_of: Callable[[Path], str | None] | None = None,
) -> Path | None:
    """The newest whole bundle of at most `max_step` steps, or None where there is none at all.

    Broken ones (with a `problem_of` them; by default, of which a byte is not what was written) are named in the log.
    Raises UserError if there are bundles but none is whole, unless `allow_fresh`.
    """
    found = [path for step, path in reversed(steps_of(folder)) if step <= max_step]
    problems = []
    for path in found:
        problem = (problem_of or damage)(path)
        if problem is None:
            return path
        problems.append(f"{path.name}: {problem}")
        log(f"bundle {path.name} is not whole and is passed over: {problem}")
    if found and not allow_fresh:
        raise UserError(
            f"{folder}: none of {len(found)} bundles can be gone on from "
            f"({problems[0]}); --fresh starts it again at step 0"
        )
    return None


def require_whole(path: Path) -> None:
    """Raises UserError when the bundle that somebody asked for is not one, or not whole."""
    if not path.is_dir():
        raise UserError(f"{path}: there is no such bundle; expected a folder step-<n>")
    if problem := damage(path):
        raise UserError(f"{path}: this bundle is not whole: {problem}")


def rotate(folder: Path, step: int, keep: int, protected: Collection[Path]) -> None:
    """Remove bundles older than the newest `keep` of at most `step` steps, and what crashes left half written.

    Those of later steps belong to a longer run with the same beginning. Protected ones stay.
    """
    for leftover in folder.glob(f"{STAGING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    old = [path for number, path in steps_of(folder) if number <= step][:-keep]
    for path in old:
        if path not in protected:
            leaving = path.with_name(f"{STAGING}leaving-{path.name}")  # never half of a bundle under its own name
            path.rename(leaving)
            shutil.rmtree(leaving, ignore_errors=True)


def damage(path: Path) -> str | None:
    """What is wrong with a bundle's files, or None. Reads every byte."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{MANIFEST} is missing or unreadable ({type(error).__name__})"
    for name, (size, sha256) in expected.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, expected {size}"
        if file_sha256(file) != sha256:
            return f"{name} has other contents than were written"
    return None


def bundle_identity(path: Path) -> dict[str, Any]:
    """What made its run that run. Raises UserError where there is no bundle."""
    try:
        identity: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        got = f"{type(error).__name__} reading state.json"
        raise UserError.about(str(path), expected="a bundle, a folder step-<n>", got=got) from None
    return identity


def bundle_digest(path: Path) -> str:
    """Stands for all of a whole bundle's bytes."""
    return file_sha256(path / MANIFEST)
