"""Artifacts in the shared store, and their way there and back.

artifacts/<kind>/<key>/manifest.json        written last, and once: an artifact without it does not exist
artifacts/<kind>/<key>/<16 hex>/<file>      what the manifest names; the folder is called by the digests of its files

So machines that build the same at the same time write beside each other, the first to be done is the artifact, and no
manifest ever stands for another one's files. A big file is a folder of parts. What is there already is neither written
nor read again: an interrupted way goes on where it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from sdxl_core.disk import flush
from tasks.digests import digest_json
from tasks.errors import StoreAway
from tasks.manifest import MANIFEST, Manifest, content_digest
from tasks.shared.files import FileSet, Torn, fetch, problems, send
from tasks.shared.objects import Objects

_LOG = logging.getLogger("sdxl_flows.store")


class Copies:
    """Raises, wherever it reads or writes, what `Objects` does."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def manifest(self, kind: str, key: str) -> Manifest | None:
        """
        Raises:
            Torn: what is there is no manifest, or another artifact's.
        """
        data = self._objects.read(manifest_name(kind, key))
        return None if data is None else parsed(data, kind, key)

    def manifests(self, wanted: list[tuple[str, str]]) -> Iterator[Manifest]:
        """Those of these kinds and keys that are there, and read."""
        return readable(self._objects.read_all, wanted)

    def keys(self, kind: str = "*") -> list[tuple[str, str]]:
        """Kinds and keys of all that is there, whole or not."""
        kinds = [kind] if kind != "*" else [place.rpartition("/")[2] for place in self._objects.listed("artifacts")]
        places = [place for each in kinds for place in self._objects.listed(f"artifacts/{each}")]
        return [(place.split("/")[1], place.split("/")[2]) for place in places]

    def missing(self, manifest: Manifest) -> list[str]:
        """What a manifest names that is not there, or not of its size."""
        there = self._objects.sizes(files_folder(manifest))
        return [part.name for part in _file_set(manifest).parts() if there.get(part.name) != part.bytes]

    def problems(self, manifest: Manifest) -> list[str]:
        """What is wrong with an artifact's files there, all of which are read."""
        return problems(self._objects, _file_set(manifest))

    def push(self, manifest: Manifest, folder: Path) -> Manifest:
        """Put an artifact there; returns the manifest that is there then, which may be another machine's."""
        files, name = _file_set(manifest), manifest_name(manifest.recipe.kind, manifest.key)
        send(self._objects, files, folder, self._objects.sizes(files_folder(manifest)))
        if self._objects.create(name, (folder / MANIFEST).read_bytes()):
            # a collection may have taken what was there from before, while no manifest named it
            send(self._objects, files, folder, self._objects.sizes(files_folder(manifest)))
            return manifest
        found = self.manifest(manifest.recipe.kind, manifest.key)
        if found is None:
            raise StoreAway(f"{self._objects.url}: {name} went while it was written")
        return found

    def pull(self, manifest: Manifest, folder: Path) -> None:
        """Fill a folder, which may have a part of it, with an artifact, on the disk when this returns.

        Raises:
            Torn: something is not there, or not what the manifest says; what is not is gone from the folder.
            DiskFullError: there is no room.
        """
        fetch(self._objects, _file_set(manifest), folder)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        flush(folder / MANIFEST)
        flush(folder)

    def remove(self, kind: str, key: str) -> None:
        """The manifest first."""
        place = _place(kind, key)
        self._objects.remove([f"{place}/{MANIFEST}"])
        self._objects.remove(self._objects.sizes(place))

    def set_aside(self, kind: str, key: str) -> str:
        """Take away the manifest of what is not whole, so that it is built again; returns where it lies now."""
        name, aside = manifest_name(kind, key), f"damaged/{kind}-{key}-{time.time_ns()}.json"
        if (data := self._objects.read(name)) is not None:
            self._objects.write(aside, data)
            self._objects.remove([name])
        return f"{self._objects.url}/{aside}"


def readable(
    read_all: Callable[[Iterable[str]], Mapping[str, bytes]], places: Iterable[tuple[str, str]]
) -> Iterator[Manifest]:
    """Of these kinds and keys, the manifests that are there and read; of others that are there it is told why not.

    `read_all`: of names, what is there, by name.
    """
    names = {manifest_name(*place): place for place in places}
    for name, data in read_all(names).items():
        try:
            yield parsed(data, *names[name])
        except Torn as error:
            _LOG.warning("%s: %s", name, error)


def parsed(data: bytes, kind: str, key: str) -> Manifest:
    """
    Raises:
        Torn: it is none, or another artifact's, or names what cannot be in a folder.
    """
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError:
        raise Torn(f"{MANIFEST} is unreadable") from None
    if (manifest.recipe.kind, manifest.key, manifest.digest) != (kind, key, content_digest(manifest.files)):
        raise Torn(f"{MANIFEST} describes something else")
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or path.as_posix() != name or ".." in path.parts or name == MANIFEST or "\0" in name:
            raise Torn(f"{MANIFEST} names {name!r}, which is no file of an artifact")
    return manifest


def _file_set(manifest: Manifest) -> FileSet:
    folder = files_folder(manifest)
    return FileSet(manifest.label, manifest.files, lambda file: f"{folder}/{file}")


def manifest_name(kind: str, key: str) -> str:
    return f"{_place(kind, key)}/{MANIFEST}"


def files_folder(manifest: Manifest) -> str:
    """Of its files: by all their digests, those of logs too, so that it never holds another build's."""
    name = digest_json({name: record.sha256 for name, record in manifest.files.items()})[:16]
    return f"{_place(manifest.recipe.kind, manifest.key)}/{name}"


def _place(kind: str, key: str) -> str:
    return f"artifacts/{kind}/{key}"
