"""What an artifact says about itself, and how its files are digested."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sdxl_core.ahead import in_order
from sdxl_core.disk import file_sha256, flush
from tasks.digests import canonical_json, digest_json

MANIFEST = "manifest.json"
LOGS = "logs/"
"""Files below this folder are kept and checked, but say nothing about the content: timings, TensorBoard."""
_LIBRARIES = (
    "sdxl-flows",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "pillow",
    "numpy",
)
_FLUSHING = 16

Json = Any
"""A value that JSON can spell."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ref(Frozen):
    """An artifact, by what it is (kind and key) and by what it holds (content digest)."""

    kind: str
    key: str
    digest: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.key}"


class Recipe(Frozen):
    """Everything that decides an artifact's bytes."""

    kind: str
    code: str
    """The stage's code version."""
    params: dict[str, Json]
    inputs: dict[str, Ref]

    @property
    def key(self) -> str:
        """32 hex digits. Inputs enter by what they hold, not by how they were made."""
        contents = {name: ref.digest for name, ref in self.inputs.items()}
        return digest_json({"kind": self.kind, "code": self.code, "params": self.params, "inputs": contents})[:32]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Small, since a dataset may hold a million files."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    sha256: str
    bytes: int


class Manifest(Frozen):
    """`manifest.json`, written last: an artifact without it does not exist."""

    schema_version: Literal[1] = 1
    recipe: Recipe
    key: str
    label: str
    """What the stage was called in the run that made it; only for people and for `plan`."""
    digest: str
    files: dict[str, FileRecord]
    summary: dict[str, Json]
    libraries: dict[str, str]
    seconds: float
    created: str

    @property
    def ref(self) -> Ref:
        return Ref(kind=self.recipe.kind, key=self.key, digest=self.digest)

    @property
    def total_bytes(self) -> int:
        return sum(record.bytes for record in self.files.values())


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can move a number, without importing them."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def content_digest(files: Mapping[str, FileRecord]) -> str:
    """Digest of the names and digests of all files but logs: `digest_json` of a mapping, without making its text."""
    names = sorted(name for name in files if not name.startswith(LOGS))
    digest = hashlib.sha256(b"{")
    for name in names:
        digest.update(b"" if name is names[0] else b",")
        digest.update(canonical_json(name) + b":" + canonical_json(files[name].sha256))
    digest.update(b"}")
    return digest.hexdigest()


def seal(folder: Path) -> dict[str, FileRecord]:
    """Digest every file below the folder and flush files and folders to the disk.

    Several threads do, since a flush is waiting, and the disk takes many of them at a time.

    Raises:
        ValueError: a stage left a link or a special file behind.
    """
    names: list[str] = []
    folders = [folder]
    for parent, inner, plain in os.walk(folder):
        here = Path(parent)
        names += [os.path.relpath(here / name, folder) for name in plain]
        names += [os.path.relpath(here / name, folder) for name in inner if (here / name).is_symlink()]
        folders += [here / name for name in inner]
    names.sort()
    files = dict(zip(names, in_order(lambda name: _sealed(folder / name), names, workers=_FLUSHING), strict=True))
    for inside in reversed(folders):
        flush(inside)
    return files


def _sealed(path: Path) -> FileRecord:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path} is not a plain file; an artifact holds plain files only")
    flush(path)
    return FileRecord(sha256=file_sha256(path), bytes=path.stat().st_size)


def problems(folder: Path, manifest: Manifest, *, deep: bool) -> list[str]:
    """What is wrong with an artifact's files: missing, of the wrong size and, if `deep`, of other bytes."""

    def problem(named: tuple[str, FileRecord]) -> str:
        return _problem(folder, *named, deep=deep)

    found = in_order(problem, manifest.files.items()) if deep else map(problem, manifest.files.items())
    return [each for each in found if each]


def _problem(folder: Path, name: str, record: FileRecord, *, deep: bool) -> str:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    if (size := path.stat().st_size) != record.bytes:
        return f"{name} has {size} bytes instead of {record.bytes}"
    return f"{name} holds other bytes than were written" if deep and file_sha256(path) != record.sha256 else ""
