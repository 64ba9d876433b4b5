"""What is wrong with artifacts, found by reading every byte."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.manifest import MANIFEST
from tasks.store import ArtifactStore, DamagedArtifact


def damage_of_all(store: ArtifactStore) -> Iterator[tuple[str, str, str]]:
    """Kind and key of every artifact that is not what was written, with what is wrong. Reads every byte."""
    for kind, key in store.places():
        if damage := damage_of(store, kind, key):
            yield kind, key, damage


def damage_of(store: ArtifactStore, kind: str, key: str) -> str:
    """What is wrong with an artifact's manifest, key, content digest or files; empty where it is whole or not there."""
    try:
        manifest = store.manifest(kind, key)
    except DamagedArtifact as damage:
        return str(damage)
    if manifest is None:
        return ""
    if manifest.recipe.key != key:
        return f"the recipe in {MANIFEST} is not the one that it was made by: it gives another key"
    return "; ".join(store.problems(manifest))
