"""One lineage recomputed: from a report back to the sources, every digest and key against the files themselves."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eval.stated import Stated
from sdxl_core.disk import file_sha256
from tasks.damage import damage_of
from tasks.manifest import MANIFEST, Manifest, Ref
from tasks.provenance import stated_recipe, stated_ref
from tasks.runs import published_files
from tasks.sources import Source, sources_of
from tasks.store import ArtifactStore, DamagedArtifact
from tasks.verify_target import Target

_NAME = re.compile(r"[a-z_]+/[0-9a-f]{32}")
Place = tuple[str, str]
"""Kind and key."""
State = Literal["whole", "damaged", "contradiction", "gone", "unchanged", "changed since", "not found"]
BAD: tuple[State, ...] = ("damaged", "contradiction")


@dataclass(frozen=True)
class Found:
    """Of one artifact, published file or source."""

    name: str
    state: State
    why: str = ""
    artifact: Place | None = None
    """If it is one."""


@dataclass
class _Known:
    """What is said of an artifact, and by whom."""

    label: str
    manifest: Manifest | None
    stated: Stated | None
    contents: list[tuple[str, str]] = field(default_factory=list)
    """Who says so, and content digest."""

    def says(self, who: str, ref: Ref) -> None:
        if who:
            self.contents.append((who, ref.digest))

    def inputs(self, trusted: bool) -> Mapping[str, Ref]:
        """By the manifest, unless it is not `trusted` and a report states others."""
        if self.stated is not None and not trusted:
            return {name: stated_ref(one) for name, one in self.stated.inputs.items()}
        return self.manifest.recipe.inputs if self.manifest is not None else {}


def verify_artifacts(store: ArtifactStore, target: Target) -> Iterator[Found]:
    """Inputs first. Reads every byte; changes nothing."""
    for (kind, key), known in _gather(store, target).items():
        state, why = _state(store, kind, key, known, target)
        yield Found(f"{known.label}  {kind}/{key[:12]}", state, why, (kind, key))


def verify_published(store: ArtifactStore, target: Target) -> Iterator[Found]:
    """The files that were copied for people, against those in the store."""
    if target.unknown is not None:
        yield Found(os.path.relpath(target.unknown), "contradiction", "no report in the store holds these bytes")
    if target.published is None:
        return
    for ref, below in target.published_from.items():
        manifest = _manifest(store, ref.kind, ref.key)
        if manifest is None:
            missing = f"{ref.kind}/{ref.key[:12]}, of whose files it holds copies"
            yield Found(os.path.relpath(target.published), "not found", missing)
            continue
        for name in published_files(manifest):
            yield _copy_of(manifest, name, target.published / below / name)


def _copy_of(manifest: Manifest, name: str, place: Path) -> Found:
    shown = os.path.relpath(place)
    if not place.is_file():
        return Found(shown, "gone")
    if file_sha256(place) != manifest.files[name].sha256:
        return Found(shown, "contradiction", f"holds other bytes than {manifest.recipe.kind}/{manifest.key[:12]}")
    return Found(shown, "whole")


def sources_in(store: ArtifactStore, target: Target) -> list[Source]:
    """What the lineage was made from that is no artifact, by what the recipes say."""
    found: dict[Source, None] = {}
    for known in _gather(store, target).values():
        if known.manifest is not None:
            found |= dict.fromkeys(sources_of(known.manifest.recipe))
    return list(found)


def _gather(store: ArtifactStore, target: Target) -> dict[Place, _Known]:
    """All that the target names, and all that these are made from, inputs first."""
    stated = {_place(stated_ref(one)): one for one in target.stated}
    begun: dict[Place, _Known] = {}
    found: dict[Place, _Known] = {}

    def visit(ref: Ref, who: str, label: str) -> None:
        place = _place(ref)
        if place in begun:
            begun[place].says(who, ref)
            return
        manifest = _manifest(store, *place)
        known = begun[place] = _Known(manifest.label if manifest else label, manifest, stated.get(place))
        known.says(who, ref)
        trusted = manifest is not None and manifest.recipe.key == ref.key
        for name, below in sorted(known.inputs(trusted).items()):
            visit(below, f"{known.label} {ref.key[:8]}" if trusted else "", name)
        found[place] = known

    for one in target.stated:
        visit(stated_ref(one), target.stated_in, one.label)
    for label, ref in target.roots.items():
        visit(ref, target.rooted_in, label)
    return found


def _place(ref: Ref) -> Place:
    return ref.kind, ref.key


def _manifest(store: ArtifactStore, kind: str, key: str) -> Manifest | None:
    """None also where it is unreadable, or a name that no artifact has: names come from files that may be edited."""
    if not _NAME.fullmatch(f"{kind}/{key}"):
        return None
    try:
        return store.manifest(kind, key)
    except DamagedArtifact:
        return None


def _state(store: ArtifactStore, kind: str, key: str, known: _Known, target: Target) -> tuple[State, str]:
    if not _NAME.fullmatch(f"{kind}/{key}"):
        who = known.contents[0][0] if known.contents else "a damaged manifest"
        return "contradiction", f"{who} names what cannot be an artifact"
    if damage := damage_of(store, kind, key):
        return "damaged", damage
    if said := _against_statement(known, target):
        return "contradiction", said
    if known.manifest is None:
        return "gone", ""
    others = dict.fromkeys(who for who, content in known.contents if content != known.manifest.digest)
    if others:
        return "contradiction", f"holds other bytes than {', '.join(others)} had of it"
    if strange := _strangers(store, known.manifest):
        return "contradiction", f"holds what is not its own: {', '.join(strange[:3])}"
    return "whole", ""


def _against_statement(known: _Known, target: Target) -> str:
    """What the report states, against itself and against the store."""
    if known.stated is None:
        return ""
    try:
        recipe = stated_recipe(known.stated, target.items)
    except ValueError as error:
        return f"{target.stated_in}: {error}"
    if recipe.key != stated_ref(known.stated).key:
        return f"the recipe that {target.stated_in} states gives another key"
    return ""


def _strangers(store: ArtifactStore, manifest: Manifest) -> list[str]:
    """Files that lie in the artifact's folder and are not its own."""
    folder = store.path(manifest.ref)
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in names if name not in manifest.files and name != MANIFEST)
