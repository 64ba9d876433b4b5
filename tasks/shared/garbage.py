"""What nothing needs in the shared store, and how it goes although machines upload meanwhile.

Ages are told by the store's own clock. Of an artifact the manifest goes first; then records and models are read again,
and what they reach by now gets its manifest back; then the files go; and then, if a manifest is there again that names
files that went, it goes too, and its artifact is built again by whoever needs it. What a killed collection left behind
is found by the next one: files that no manifest names, and manifests that name what is not there. So it never stays so
that a manifest stands for files that are gone.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tasks.manifest import MANIFEST, Manifest
from tasks.shared.copies import Copies, files_folder, manifest_name
from tasks.shared.files import Torn
from tasks.shared.leases import lease_s
from tasks.shared.objects import Objects

_LOG = logging.getLogger("sdxl_flows.store")
_CLOCK = "clock"
HOUR_S = 3600.0
Place = tuple[str, str]
"""Kind and key of an artifact."""


@dataclass(frozen=True)
class Ages:
    """How old what goes has to be, in hours."""

    least_h: float
    """Artifacts, uploads, what was damaged."""
    unused_h: float
    """Packs of cells, trainings, Prefect's records."""


@dataclass(frozen=True)
class SharedGarbage:
    """What `clear` removes."""

    ages: Ages
    artifacts: tuple[Manifest, ...] = ()
    torn: tuple[Place, ...] = ()
    """Manifests that do not read, or name what is not there."""
    loose: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By what it is, names and bytes of objects: of uploads without a manifest, dead leases, old packs ..."""

    def rows(self) -> Iterator[tuple[str, int]]:
        """Kind and bytes of every thing."""
        for manifest in self.artifacts:
            yield manifest.recipe.kind, manifest.total_bytes
        for _ in self.torn:
            yield "torn manifests", 0
        for kind, objects in self.loose.items():
            yield from ((kind, size) for size in objects.values())


def clock(objects: Objects) -> float:
    """What time it is there, in seconds since the epoch: when an object that is written now was written."""
    objects.write(_CLOCK, b"now")
    return objects.modified(_CLOCK)[_CLOCK]


def find_shared(objects: Objects, kept: set[Place], ages: Ages) -> SharedGarbage:
    """What is older than `ages` and not kept. Raises what `Objects` does."""
    now = clock(objects)
    oldest, unused = now - ages.least_h * HOUR_S, now - ages.unused_h * HOUR_S
    written = objects.modified("artifacts")
    places = [place for name in written if (place := _of_manifest(name)) is not None]
    manifests = {(one.recipe.kind, one.key): one for one in Copies(objects).manifests(places)}
    # asked for after the manifests, whose files were there before them
    sizes = objects.sizes("artifacts")
    folders = _by_folder(sizes)
    old = [place for place in places if written[manifest_name(*place)] < oldest]
    going = tuple(manifests[place] for place in old if place in manifests and place not in kept)
    torn = tuple(place for place in old if place not in manifests or not _is_whole(objects, manifests[place], folders))
    loose = {
        "uploads": dict(_unnamed(written, folders, manifests, oldest)),
        "leases": _still(objects, "leases", 2, now - max(HOUR_S, 10 * lease_s())),
        "damaged": _still(objects, "damaged", 2, oldest),
        "old packs": _still(objects, "cells", 4, unused),
        "old trainings": _still(objects, "trainings", 2, unused),
        "old records": _still(objects, "prefect", 3, unused),
    }
    return SharedGarbage(ages, going, torn, {kind: found for kind, found in loose.items() if found})


def clear(objects: Objects, garbage: SharedGarbage, reached: Callable[[], set[Place]]) -> int:
    """Remove it; returns the bytes freed. `reached` says what records and models reach at the moment, and what that
    was made from, as far as there are manifests.

    Raises what `Objects` does; what has not gone then is found again.
    """
    oldest = clock(objects) - garbage.ages.least_h * HOUR_S
    going = {(one.recipe.kind, one.key): one for one in garbage.artifacts}
    objects.remove(manifest_name(*place) for place in {*going, *garbage.torn})
    wanted = list(reached() & going.keys())
    while wanted:
        place = wanted.pop()
        manifest = going.pop(place)
        objects.create(manifest_name(*place), manifest.model_dump_json(indent=1).encode())
        _LOG.warning("%s/%s: something needs it again; it stays", *place)
        made_from = {(ref.kind, ref.key) for ref in manifest.recipe.inputs.values()}
        wanted += made_from & going.keys() - {*wanted}
    files: dict[str, int] = {}
    for found in objects.each(objects.sizes, map(files_folder, going.values())):
        files |= found
    touched = {*going}
    for place, upload in _by_place(garbage.loose.get("uploads", {})).items():
        if not _has_changed(objects, place, upload, oldest):
            files |= upload
            touched.add(place)
    for kind, still in garbage.loose.items():
        files |= still if kind != "uploads" else {}
    objects.remove(files)
    objects.each(lambda place: _take_away_torn(objects, place), touched)
    return sum(files.values())


def _unnamed(
    written: Mapping[str, float],
    folders: Mapping[str, Mapping[str, int]],
    manifests: Mapping[Place, Manifest],
    oldest: float,
) -> Iterator[tuple[str, int]]:
    """Objects in folders that no manifest names, none of which is young."""
    named = {files_folder(manifest) for manifest in manifests.values()}
    unread = {place for name in written if (place := _of_manifest(name)) is not None} - manifests.keys()
    for folder, found in folders.items():
        _, kind, key, *_ = folder.split("/")
        is_old = all(name in written and written[name] < oldest for name in found)
        if is_old and folder not in named and (kind, key) not in unread:
            yield from found.items()


def _is_whole(objects: Objects, manifest: Manifest, folders: Mapping[str, Mapping[str, int]]) -> bool:
    """By the listing, where that has as many bytes; else by looking again."""
    if sum(folders.get(files_folder(manifest), {}).values()) == manifest.total_bytes:
        return True
    return not Copies(objects).missing(manifest)


def _has_changed(objects: Objects, place: Place, upload: Mapping[str, int], oldest: float) -> bool:
    """Whether somebody goes on with an upload since it was found to be old, or has come to its end."""
    written = objects.modified(f"artifacts/{place[0]}/{place[1]}")
    if any(written.get(name, 0.0) >= oldest for name in upload):
        return True
    if manifest_name(*place) not in written:
        return False
    try:
        manifest = Copies(objects).manifest(*place)
    except Torn:
        return True
    return manifest is not None and any(name.startswith(f"{files_folder(manifest)}/") for name in upload)


def _take_away_torn(objects: Objects, place: Place) -> None:
    """The manifest, if one has come that names what went."""
    copies = Copies(objects)
    try:
        manifest = copies.manifest(*place)
        torn = manifest is not None and bool(copies.missing(manifest))
    except Torn:
        torn = True
    if torn:
        objects.remove([manifest_name(*place)])
        _LOG.warning("%s/%s was uploaded again while it was cleared; it will be built again", *place)


def _still(objects: Objects, folder: str, depth: int, before: float) -> dict[str, int]:
    """Objects, with their bytes, of those groups in a folder in which nothing was written since; the objects of a group
    have so many first parts of their names in common."""
    written, sizes = objects.modified(folder), objects.sizes(folder)
    newest: dict[tuple[str, ...], float] = defaultdict(float)
    for name, at in written.items():
        group = tuple(name.split("/")[:depth])
        newest[group] = max(newest[group], at)
    return {name: sizes.get(name, 0) for name in written if newest[tuple(name.split("/")[:depth])] < before}


def _by_folder(sizes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Objects of artifacts by the folder of one upload."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for name, size in sizes.items():
        if _of_manifest(name) is None and len(parts := name.split("/")) > 4:
            found["/".join(parts[:4])][name] = size
    return found


def _by_place(names: Mapping[str, int]) -> dict[Place, dict[str, int]]:
    found: dict[Place, dict[str, int]] = defaultdict(dict)
    for name, size in names.items():
        _, kind, key, *_ = name.split("/")
        found[kind, key][name] = size
    return found


def _of_manifest(name: str) -> Place | None:
    match name.split("/"):
        case ["artifacts", kind, key, file] if file == MANIFEST:
            return kind, key
    return None
