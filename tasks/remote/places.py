"""Places on this machine that a call names, and how another machine gets what lies there.

What came from the Hugging Face hub is taken from there again, at the same commit; all else is sent to the shared store,
as an artifact. Either way every file has to have the digest that it has here, by which the call's key knows it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pydantic import model_validator

from sdxl_core.disk import file_sha256
from tasks.digests import FileDigests
from tasks.errors import ConfigError
from tasks.manifest import Frozen, Json, Recipe, Ref
from tasks.store import ArtifactStore, Workplace

PLACES: Mapping[str, tuple[str, ...]] = {
    "train": (
        "model",
        "vae",
        "face_model",
        "training/adapter/start_from",
        "continuing/ancestor/path",
        "scorers/weights/*/places/*",
    ),
    "latents": ("vae",),
    "text": ("model",),
    "class_images": ("model", "vae"),
    "images": ("model", "vae", "files/*"),
}
"""Which of a call's local values are places, by kind of stage; `*` is every entry. Other kinds stay here."""
KIND = "place"
_CHECKPOINT = "model_index.json"
_READ = (".json", ".txt", ".model", ".safetensors")
"""What is read of a checkpoint; what lies beside its components are exports and previews of it."""
_SNAPSHOT = re.compile(r"/models--(?P<repository>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})(?:/(?P<inside>.+))?")
Pointer = tuple[str, ...]


class Origin(Frozen):
    """Where another machine finds what lies at a place here."""

    files: dict[str, str]
    """SHA-256 by name, relative to the place; of a place that is a file, by its own name."""
    is_file: bool
    artifact: Ref | None = None
    """In the shared store; else on the hub:"""
    repository: str = ""
    revision: str = ""
    inside: str = ""
    """The place, relative to the repository."""

    @model_validator(mode="after")
    def _stays_inside(self) -> Origin:
        for name in (self.inside, *self.files):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name:
                raise ValueError(f"{name!r} leads out of its folder")
        return self


def named_places(kind: str, local: Mapping[str, Json]) -> Iterator[tuple[Pointer, Path]]:
    """The places that a call of a kind names, with where they stand in its local values."""
    for pattern in PLACES[kind]:
        for pointer, value in _matches(local, tuple(pattern.split("/"))):
            if value is not None:
                yield pointer, Path(value)


def replaced(value: Json, pointer: Pointer, new: Json) -> Json:
    """A copy with another value where the pointer points."""
    if not pointer:
        return new
    if isinstance(value, list):
        at = int(pointer[0])
        return [replaced(entry, pointer[1:], new) if index == at else entry for index, entry in enumerate(value)]
    return {**value, pointer[0]: replaced(value[pointer[0]], pointer[1:], new)}


def origin(place: Path, store: ArtifactStore, from_hub: bool) -> Origin:
    """Of what lies at a place; unless it is the hub's and `from_hub`, it is in the shared store when this returns.

    Raises:
        ConfigError: nothing lies there, or it changes meanwhile; or what materialising an artifact raises.
    """
    folder, names = (place.parent, [place.name]) if place.is_file() else (place, _names(place))
    if not names:
        raise ConfigError.about(str(place), expected="files that a job elsewhere can be given", got="none")
    files = dict(zip(names, store.digest_file.many(folder / name for name in names), strict=True))
    found = _SNAPSHOT.search(place.as_posix())
    if found is not None and from_hub:
        repository = found["repository"].replace("--", "/")
        where = {"repository": repository, "revision": found["revision"], "inside": found["inside"] or ""}
        return Origin(files=files, is_file=place.is_file(), **where)
    recipe = Recipe(kind=KIND, code="1", params={"files": files}, inputs={})

    def copy(workplace: Workplace) -> dict[str, Json]:
        for name, sha256 in files.items():
            target = workplace.out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target)
            if file_sha256(target) != sha256:
                raise ConfigError(f"{folder / name} changed while it was sent to the shared store; run again")
        return {"files": len(files)}

    artifact = store.materialise(recipe, f"{KIND}/{place.name}", copy)
    return Origin(files=files, is_file=place.is_file(), artifact=artifact)


def brought(origin: Origin, store: ArtifactStore, where: str) -> Path:
    """The place of the same files on this machine. `where` says whose they are, for people.

    Raises:
        ConfigError: the hub does not give them, or gives others; or what bringing an artifact raises.
    """
    if origin.artifact is not None:
        folder = store.path(origin.artifact)
    else:
        folder = _from_hub(origin, where)
        _require_same(origin, folder, store.digest_file, where)
    return folder / next(iter(origin.files)) if origin.is_file else folder


def _matches(value: Json, pattern: Pointer, at: Pointer = ()) -> Iterator[tuple[Pointer, Json]]:
    if not pattern:
        yield at, value
        return
    entries: dict[str, Json] = {}
    if isinstance(value, Mapping):
        entries = dict(value)
    elif isinstance(value, list):
        entries = {str(index): entry for index, entry in enumerate(value)}
    for name, entry in entries.items():
        if pattern[0] in ("*", name):
            yield from _matches(entry, pattern[1:], (*at, name))


def _names(folder: Path) -> list[str]:
    """Of the files that count; of a checkpoint, those of its components."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    names = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    if _CHECKPOINT not in names:
        return names
    return [name for name in names if name == _CHECKPOINT or ("/" in name and name.endswith(_READ))]


def _from_hub(origin: Origin, where: str) -> Path:
    """The folder of the place's files, in the hub's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    inside = Path(origin.inside).parent if origin.is_file else Path(origin.inside)
    wanted = [(inside / name).as_posix() for name in origin.files]
    try:
        found = snapshot_download(origin.repository, revision=origin.revision, allow_patterns=wanted)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        fix = "With models_from: store it comes by way of the shared store"
        raise ConfigError(f"{where}: cannot get {origin.repository!r} from the hub: {reason}. {fix}") from None
    return Path(found) / inside


def _require_same(origin: Origin, folder: Path, digests: FileDigests, where: str) -> None:
    for name, sha256 in origin.files.items():
        file = folder / name
        got = digests(file) if file.is_file() else "none"
        if got != sha256:
            whole = f"{name} of {origin.repository} at {origin.revision[:12]}"
            raise ConfigError.about(f"{where}: {whole}", expected=f"the bytes of digest {sha256[:12]}", got=got[:12])
