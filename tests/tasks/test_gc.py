"""Garbage collection keeps what recent runs reach, and what is young or at work."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tasks.gc import Retention, collect, find_garbage
from tasks.locks import held
from tasks.manifest import Ref
from tasks.runs import publish, read_runs, record_run
from tasks.stage import materialise
from tasks.store import ArtifactStore
from tests.tasks.conftest import MakeCall

EVERYTHING = Retention(runs=1, min_age_h=0, cells_age_h=24)


@pytest.fixture
def chain(store: ArtifactStore, call: MakeCall) -> tuple[Ref, Ref]:
    source = materialise(call("source"), store, "cpu")
    return source, materialise(call("result", inputs={"source": source}), store, "cpu")


def test_what_the_last_runs_reach_stays(store: ArtifactStore, call: MakeCall, chain: tuple[Ref, Ref]) -> None:
    stray = materialise(call("stray"), store, "cpu")
    record_run(store, "name", "command", {"old": stray})
    record_run(store, "name", "command", {"result": chain[1]})
    garbage = find_garbage(store, EVERYTHING)
    assert [manifest.ref for manifest in garbage.artifacts] == [stray]
    assert collect(store, garbage) == garbage.total_bytes > 0
    assert {manifest.ref for manifest in store.manifests()} == set(chain)
    assert find_garbage(store, EVERYTHING).total_bytes == 0


def test_every_name_keeps_its_own_runs(store: ArtifactStore, chain: tuple[Ref, Ref]) -> None:
    record_run(store, "one", "command", {"source": chain[0]})
    record_run(store, "other", "command", {"result": chain[1]})
    assert find_garbage(store, EVERYTHING).artifacts == ()


def test_the_young_stay(store: ArtifactStore, chain: tuple[Ref, Ref]) -> None:
    assert find_garbage(store, Retention(runs=0, min_age_h=1)).artifacts == ()


def test_what_is_locked_stays(store: ArtifactStore, chain: tuple[Ref, Ref]) -> None:
    garbage = find_garbage(store, EVERYTHING)
    assert len(garbage.artifacts) == 2
    with held(store.lock_path(chain[0].kind, chain[0].key), lambda holder: None):
        collect(store, garbage)
    assert [manifest.ref for manifest in store.manifests()] == [chain[0]]


def test_leftovers_and_old_cells_go(store: ArtifactStore) -> None:
    leftovers = [store.work_path("train", "0" * 32), store.root / "staging" / f"train-{'0' * 32}"]
    for path in leftovers:
        path.mkdir(parents=True)
    cells = store.cells("images")
    cells["ab" * 32], cells["cd" * 32] = b"old", b"new"
    [old] = store.root.glob("cells/images/ab/*")
    then = time.time() - 48 * 3600
    os.utime(old, (then, then))
    collect(store, find_garbage(store, EVERYTHING))
    assert not any(path.exists() for path in leftovers)
    assert list(cells) == ["cd" * 32]


def test_reading_a_cell_counts_as_use(store: ArtifactStore) -> None:
    cells = store.cells("images")
    cells["ab" * 32] = b"old"
    [path] = store.root.glob("cells/images/ab/*")
    then = time.time() - 48 * 3600
    os.utime(path, (then, then))
    assert cells["ab" * 32] == b"old"
    assert find_garbage(store, EVERYTHING).cells == ()


def test_a_record_that_does_not_read_counts_as_none(store: ArtifactStore, chain: tuple[Ref, Ref]) -> None:
    record_run(store, "name", "command", {"result": chain[1]})
    [path] = store.root.glob("runs/name/*.json")
    shutil.copy(path, path.with_name("9999.json"))
    path.with_name("9999.json").write_text("{")
    assert [record.refs for record in read_runs(store)] == [{"result": chain[1]}]


def test_publishing_copies_so_that_the_store_stays_as_it_is(store: ArtifactStore, tmp_path: Path) -> None:
    place = store.root / "artifacts" / "report" / "key"
    place.mkdir(parents=True)
    for name in ("report.html", "report.json", "summary.md", "scores.parquet"):
        (place / name).write_text(name)
    ref = Ref(kind="report", key="key", digest="digest")
    page = publish(store, {"report": ref}, tmp_path / "runs")
    page.write_text("edited")
    assert (place / "report.html").read_text() == "report.html"
    assert publish(store, {"report": ref}, tmp_path / "runs").read_text() == "report.html"
