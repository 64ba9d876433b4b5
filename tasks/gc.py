"""Garbage collection: what no recent run reaches goes; in a shared store, no recent run of any machine."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from tasks.errors import ConfigError
from tasks.lineage import lineage
from tasks.locks import held_if_free
from tasks.manifest import Frozen, Json, Manifest, Ref
from tasks.registry import Registry
from tasks.runs import read_runs
from tasks.shared.garbage import Ages, Place, SharedGarbage, clear, find_shared
from tasks.shared.leases import leased
from tasks.store import ArtifactStore, DamagedArtifact, say_waiting
from tasks.trainings import kept_keys

_HOUR_S = 3600.0
_LEAST_SHARED_H = 24.0
"""What other machines do may take so long before it has a record."""


class Retention(Frozen):
    """What is kept."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    runs: Annotated[int, Field(ge=0)] = 3
    """Of every name, the last so many; with all they were made from."""
    versions: Annotated[int, Field(ge=0)] = 3
    """Of every model, beside what is in production, the last so many that once were, and so many that never were."""
    min_age_h: Annotated[float, Field(ge=0)] = 24.0
    """Nothing younger goes: a run in progress has no record yet. In a shared store at least 24."""
    cells_age_h: Annotated[float, Field(ge=0)] = 24.0 * 30
    """Cells, and mirrors of buckets, not used for so long go; they cost recomputation, and reading again. In a shared
    store, what was written so long ago of cells, and of trainings."""


@dataclass(frozen=True)
class Garbage:
    artifacts: tuple[Manifest, ...]
    """Of this machine's folder; where it is a shared store's, copies."""
    leftovers: tuple[Path, ...]
    """Damaged artifacts, work and staging folders of runs that never came back, trainings no name stands for,
    mirrors."""
    cells: tuple[Path, ...]
    retention: Retention
    shared: SharedGarbage | None = None
    """What other machines see go as well."""

    @property
    def total_bytes(self) -> int:
        loose = sum(_bytes_of(path) for path in (*self.leftovers, *self.cells))
        shared = 0 if self.shared is None else sum(size for _, size in self.shared.rows())
        return loose + shared + sum(manifest.total_bytes for manifest in self.artifacts)


def find_garbage(store: ArtifactStore, retention: Retention) -> Garbage:
    """What `collect` would remove.

    Raises:
        ConfigError: the store is shared, and too young things would go.
        StoreAway: it cannot be reached.
    """
    if store.objects is None:
        kept = {manifest.ref for manifest in lineage(store, _roots(store, retention))}
        return _find_here(store, retention, lambda manifest: manifest.ref in kept)
    if retention.min_age_h < _LEAST_SHARED_H:
        expected = f"at least {_LEAST_SHARED_H:g} h in a store that machines share"
        raise ConfigError.about("min_age_h", expected=expected, got=f"{retention.min_age_h:g}")
    needed = _reached(store, retention)
    here = _find_here(store, retention, lambda manifest: (manifest.recipe.kind, manifest.key) in needed)
    shared = find_shared(store.objects, needed, Ages(retention.min_age_h, retention.cells_age_h))
    return replace(here, shared=shared)


def _roots(store: ArtifactStore, retention: Retention) -> list[Ref]:
    """What the last runs made, and the kept versions."""
    seen: Counter[str] = Counter()
    roots: list[Ref] = []
    for record in read_runs(store):
        seen[record.name] += 1
        if seen[record.name] <= retention.runs:
            roots += list(record.refs.values())
    return roots + Registry(store).kept(retention.versions)


def _reached(store: ArtifactStore, retention: Retention) -> set[Place]:
    """Of all machines' runs, and what that was made from. By kind and key: of what was built twice, the one that is
    there is what they need."""
    roots = _roots(store, retention)
    inputs = (ref for manifest in lineage(store, roots) for ref in (manifest.ref, *manifest.recipe.inputs.values()))
    return {(ref.kind, ref.key) for ref in (*roots, *inputs)}


def _find_here(store: ArtifactStore, retention: Retention, is_kept: Callable[[Manifest], bool]) -> Garbage:
    """In the store's folder."""
    newest = time.time() - retention.min_age_h * _HOUR_S
    artifacts = tuple(
        manifest
        for manifest in _manifests_here(store, newest)
        if not is_kept(manifest) and datetime.fromisoformat(manifest.created).timestamp() < newest
    )
    places = [store.root.glob(pattern) for pattern in ("work/*/*", "staging/*", "damaged/*", "trainings/*")]
    named = {"names", *kept_keys(store)}
    leftovers = tuple(
        path
        for found in places
        for path in sorted(found)
        if path.stat().st_mtime < newest and not (path.parent.name == "trainings" and path.name in named)
    )
    old = time.time() - retention.cells_age_h * _HOUR_S
    mirrors = tuple(path for path in sorted(store.root.glob("mirrors/*")) if path.stat().st_mtime < old)
    return Garbage(artifacts, (*leftovers, *mirrors), tuple(_old_cells(store, old)), retention)


def _manifests_here(store: ArtifactStore, newest: float) -> Iterator[Manifest]:
    """Oldest first; of copies of what is shared, those that came here before `newest`."""
    if store.objects is None:
        yield from store.manifests()
        return
    for place in sorted((store.root / "artifacts").glob("*/*"), key=lambda path: path.stat().st_mtime):
        with suppress(DamagedArtifact):
            if place.stat().st_mtime < newest:
                found = store.manifest(place.parent.name, place.name)
                yield from [found] if found is not None else []


def told(garbage: Garbage) -> list[dict[str, Json]]:
    """How many of which kind, and their bytes; a row each."""
    rows: dict[str, dict[str, Json]] = {}
    found = [
        (manifest.recipe.kind if garbage.shared is None else "copies here", manifest.total_bytes)
        for manifest in garbage.artifacts
    ]
    found += [] if garbage.shared is None else garbage.shared.rows()
    found += [("left over", _bytes_of(path)) for path in garbage.leftovers]
    found += [("old cells", _bytes_of(path)) for path in garbage.cells]
    for kind, size in found:
        row = rows.setdefault(kind, {"kind": kind, "count": 0, "bytes": 0})
        row["count"] += 1
        row["bytes"] += size
    return [rows[kind] for kind in sorted(rows)]


def collect(store: ArtifactStore, garbage: Garbage) -> int:
    """Remove garbage; what another process is building, reading or waiting for is left. Returns the bytes freed.

    Of several machines that share a store one collects at a time.

    Raises:
        StoreAway: the store is shared, and cannot be reached.
    """
    freed = _collect_here(store, garbage)
    if store.objects is not None and garbage.shared is not None:
        with leased(store.objects, "artifacts-gc", say_waiting("artifacts-gc"), lambda: False):
            freed += clear(store.objects, garbage.shared, lambda: _reached(store, garbage.retention))
    return freed


def _collect_here(store: ArtifactStore, garbage: Garbage) -> int:
    freed = 0
    for manifest in garbage.artifacts:
        kind, key = manifest.recipe.kind, manifest.key
        with ExitStack() as locks:
            is_free = locks.enter_context(held_if_free(store.lock_path(kind, key)))
            if store.objects is not None:
                is_free &= locks.enter_context(held_if_free(store.root / "locks" / "use" / f"{kind}-{key}.lock"))
            if is_free:
                store.remove(kind, key)
                freed += manifest.total_bytes
    for path in garbage.leftovers:
        with held_if_free(store.lock_path(*_owner(path))) as free:
            if free:
                freed += _bytes_of(path)
                shutil.rmtree(path, ignore_errors=True)
    for path in garbage.cells:
        freed += _bytes_of(path)
        path.unlink(missing_ok=True)
    return freed


def _old_cells(store: ArtifactStore, oldest: float) -> Iterator[Path]:
    return (path for path in sorted(store.root.glob("cells/*/??/*")) if path.stat().st_mtime < oldest)


def _owner(leftover: Path) -> tuple[str, str]:
    """Kind and key of the lock that guards a training, a mirror, a work (`kind/key`) or staging (`kind-key`) folder."""
    if leftover.parent.name in ("trainings", "mirrors"):
        return leftover.parent.name.removesuffix("s"), leftover.name
    if leftover.parent.parent.name == "work":
        return leftover.parent.name, leftover.name
    kind, key, *_ = leftover.name.split("-")
    return kind, key


def _bytes_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
