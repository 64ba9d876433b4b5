"""What an artifact says about itself, and how its files are digested."""

from __future__ import annotations

import os
import stat
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sdxl_core.disk import file_sha256, flush
from tasks.digests import digest_json

MANIFEST = "manifest.json"
LOGS = "logs/"
"""Files below this folder are kept and checked, but say nothing about the content: timings, TensorBoard."""
_LIBRARIES = (
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


class FileRecord(Frozen):
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


def content_digest(files: dict[str, FileRecord]) -> str:
    """Digest of the names and digests of all files but logs."""
    return digest_json({name: record.sha256 for name, record in files.items() if not name.startswith(LOGS)})


def seal(folder: Path) -> dict[str, FileRecord]:
    """Digest every file below the folder and flush files and folders to the disk.

    Raises:
        ValueError: a stage left a link or a special file behind.
    """
    files: dict[str, FileRecord] = {}
    for parent, folders, names in os.walk(folder, topdown=False):
        here = Path(parent)
        for name in sorted(names) + [entry for entry in folders if (here / entry).is_symlink()]:
            path = here / name
            if not stat.S_ISREG(path.lstat().st_mode):
                raise ValueError(f"{path} is not a plain file; an artifact holds plain files only")
            flush(path)
            files[path.relative_to(folder).as_posix()] = FileRecord(sha256=file_sha256(path), bytes=path.stat().st_size)
        flush(here)
    return dict(sorted(files.items()))


def problems(folder: Path, manifest: Manifest, *, deep: bool) -> list[str]:
    """What is wrong with an artifact's files: missing, of the wrong size and, if `deep`, of other bytes."""
    found = []
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != record.bytes:
            found.append(f"{name} has {path.stat().st_size} bytes instead of {record.bytes}")
        elif deep and file_sha256(path) != record.sha256:
            found.append(f"{name} holds other bytes than were written")
    return found
