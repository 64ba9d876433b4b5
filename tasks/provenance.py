"""What a report says about where its numbers come from, complete enough to compute every key again from it alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from pydantic import TypeAdapter

from eval.stated import Stated, StatedInput, StatedLineage, StatedSource, is_long
from tasks.digests import canonical_json, digest_json
from tasks.lineage import lineage
from tasks.manifest import Json, Manifest, Recipe, Ref
from tasks.sources import sources_of
from tasks.store import ArtifactStore

SHORT = 8
"""Lists of more entries are taken apart."""
_RUNS = TypeAdapter(list[tuple[int, int]])


@dataclass
class _Pool:
    """Gives equal values the same place."""

    values: list[Json] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)

    def add(self, value: Json) -> int:
        place = self.places.setdefault(canonical_json(value), len(self.values))
        if place == len(self.values):
            self.values.append(value)
        return place


def provenance(store: ArtifactStore, roots: Iterable[Ref]) -> dict[str, Json]:
    """A `StatedLineage` of the roots and of all they were made from that is in the store."""
    items, libraries = _Pool(), _Pool()
    artifacts = [_stated(manifest, items, libraries) for manifest in lineage(store, roots)]
    return StatedLineage(artifacts=artifacts, items=items.values, libraries=libraries.values).model_dump(mode="json")


def stated_ref(stated: StatedInput) -> Ref:
    kind, _, key = stated.artifact.partition("/")
    return Ref(kind=kind, key=key, digest=stated.content)


def stated_recipe(stated: Stated, items: Sequence[Json]) -> Recipe:
    """Raises ValueError where a long list is not what its digest says."""
    return Recipe(
        kind=stated_ref(stated).kind,
        code=stated.code,
        params=_whole(stated.params, items),
        inputs={name: stated_ref(below) for name, below in stated.inputs.items()},
    )


def _stated(manifest: Manifest, items: _Pool, libraries: _Pool) -> Stated:
    recipe = manifest.recipe
    return Stated(
        artifact=str(manifest.ref),
        content=manifest.digest,
        label=manifest.label,
        code=recipe.code,
        params=_apart(recipe.params, items),
        inputs={name: StatedInput(artifact=str(ref), content=ref.digest) for name, ref in recipe.inputs.items()},
        sources=[StatedSource(what=source.name, sha256=source.sha256) for source in sources_of(recipe)],
        libraries=libraries.add(manifest.libraries),
    )


def _apart(value: Json, items: _Pool) -> Json:
    """The value with long lists replaced by where their entries stand."""
    if isinstance(value, dict):
        return {key: _apart(entry, items) for key, entry in value.items()}
    if isinstance(value, list) and len(value) > SHORT:
        return {"items": _runs([items.add(entry) for entry in value]), "sha256": digest_json(value)}
    return value


def _whole(value: Json, items: Sequence[Json]) -> Json:
    """The reverse of `_apart`."""
    if not isinstance(value, dict):
        return value
    if not is_long(value):
        return {key: _whole(entry, items) for key, entry in value.items()}
    runs = _RUNS.validate_python(value["items"])
    entries = list(chain.from_iterable(items[first : first + count] for first, count in runs))
    if digest_json(entries) != value["sha256"]:
        raise ValueError("a long list is not what its digest says")
    return entries


def _runs(places: Sequence[int]) -> list[list[int]]:
    """Places that follow each other, as first place and count."""
    runs: list[list[int]] = []
    for place in places:
        if runs and sum(runs[-1]) == place:
            runs[-1][1] += 1
        else:
            runs.append([place, 1])
    return runs
