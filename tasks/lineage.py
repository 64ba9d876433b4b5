"""Which artifact a name means, and where it comes from: its inputs' manifests, and theirs, back to the sources."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.errors import ConfigError
from tasks.manifest import Manifest, Ref
from tasks.store import ArtifactStore, DamagedArtifact


def find_artifact(store: ArtifactStore, name: str) -> Manifest:
    """The artifact that `kind/key` names; the key's beginning is enough.

    Raises:
        ConfigError: there is none, or more than one.
    """
    kind, _, key = name.partition("/")
    found = [manifest for manifest in store.manifests(kind or "*") if manifest.key.startswith(key)]
    if len(found) != 1:
        what = "no artifact" if not found else f"{len(found)} artifacts"
        raise ConfigError(f"{name}: expected the beginning of one artifact's name, got {what}; see `artifacts ls`")
    return found[0]


def lineage(store: ArtifactStore, roots: Iterable[Ref]) -> list[Manifest]:
    """The manifests of the roots and of all they were made from, inputs first; what is gone is left out."""
    found: dict[tuple[str, str], Manifest] = {}

    def visit(ref: Ref) -> None:
        place = (ref.kind, ref.key)
        if place in found:
            return
        try:
            manifest = store.manifest(*place)
        except DamagedArtifact:
            return
        if manifest is None:
            return
        for _, below in sorted(manifest.recipe.inputs.items()):
            visit(below)
        found[place] = manifest

    for root in roots:
        visit(root)
    return list(found.values())
