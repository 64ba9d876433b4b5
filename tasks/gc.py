"""Garbage collection: what no recent run reaches goes."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from tasks.lineage import lineage
from tasks.locks import held_if_free
from tasks.manifest import Frozen, Json, Manifest
from tasks.registry import Registry
from tasks.runs import read_runs
from tasks.store import ArtifactStore
from tasks.trainings import kept_keys

_HOUR_S = 3600.0


class Retention(Frozen):
    """What is kept."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    runs: Annotated[int, Field(ge=0)] = 3
    """Of every name, the last so many; with all they were made from."""
    versions: Annotated[int, Field(ge=0)] = 3
    """Of every model, beside what is in production, the last so many that once were, and so many that never were."""
    min_age_h: Annotated[float, Field(ge=0)] = 24.0
    """Nothing younger goes: a run in progress has no record yet."""
    cells_age_h: Annotated[float, Field(ge=0)] = 24.0 * 30
    """Cells, and mirrors of buckets, not used for so long go; they cost recomputation, and reading again."""


@dataclass(frozen=True)
class Garbage:
    artifacts: tuple[Manifest, ...]
    leftovers: tuple[Path, ...]
    """Damaged artifacts, work and staging folders of runs that never came back, trainings no name stands for,
    mirrors."""
    cells: tuple[Path, ...]

    @property
    def total_bytes(self) -> int:
        loose = sum(_bytes_of(path) for path in (*self.leftovers, *self.cells))
        return loose + sum(manifest.total_bytes for manifest in self.artifacts)


def find_garbage(store: ArtifactStore, retention: Retention) -> Garbage:
    """What `collect` would remove."""
    seen: Counter[str] = Counter()
    roots = []
    for record in read_runs(store):
        seen[record.name] += 1
        if seen[record.name] <= retention.runs:
            roots += list(record.refs.values())
    roots += Registry(store).kept(retention.versions)
    kept = {manifest.ref for manifest in lineage(store, roots)}
    newest = time.time() - retention.min_age_h * _HOUR_S
    artifacts = tuple(
        manifest
        for manifest in store.manifests()
        if manifest.ref not in kept and datetime.fromisoformat(manifest.created).timestamp() < newest
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
    return Garbage(artifacts, (*leftovers, *mirrors), tuple(_old_cells(store, old)))


def told(garbage: Garbage) -> list[dict[str, Json]]:
    """How many of which kind, and their bytes; a row each."""
    rows: dict[str, dict[str, Json]] = {}
    found = [(manifest.recipe.kind, manifest.total_bytes) for manifest in garbage.artifacts]
    found += [("left over", _bytes_of(path)) for path in garbage.leftovers]
    found += [("old cells", _bytes_of(path)) for path in garbage.cells]
    for kind, size in found:
        row = rows.setdefault(kind, {"kind": kind, "count": 0, "bytes": 0})
        row["count"] += 1
        row["bytes"] += size
    return [rows[kind] for kind in sorted(rows)]


def collect(store: ArtifactStore, garbage: Garbage) -> int:
    """Remove garbage; what another process is building or waiting for is left. Returns the bytes freed."""
    freed = 0
    for manifest in garbage.artifacts:
        with held_if_free(store.lock_path(manifest.recipe.kind, manifest.key)) as free:
            if free:
                store.remove(manifest.recipe.kind, manifest.key)
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
