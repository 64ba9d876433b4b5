"""Collection in a shared store: what any machine's run needs stays, and no manifest stands for files that are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks.gc import Garbage, Retention, collect, find_garbage
from tasks.manifest import MANIFEST, Ref
from tasks.registry import Registry
from tasks.runs import read_runs, record_run
from tasks.shared import garbage
from tasks.shared.copies import Copies
from tasks.shared.objects import Objects
from tasks.stage import materialise
from tasks.store import ArtifactStore
from tests.tasks.conftest import MakeCall
from tests.tasks.shared.conftest import Machine
from tests.tiers import first_of

NOTHING = Retention(runs=0, versions=0)
DAYS_S = 86_400.0
Later = Callable[[float], None]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Let the shared store's clock, and this machine's, go forward by so many days."""
    clock, now, ahead = garbage.clock, time.time, 0.0

    def go_on(days: float) -> None:
        nonlocal ahead
        ahead += days * DAYS_S

    monkeypatch.setattr(garbage, "clock", lambda objects: clock(objects) + ahead)
    monkeypatch.setattr("tasks.gc.time.time", lambda: now() + ahead)
    return go_on


def shared(store: ArtifactStore) -> Objects:
    assert store.objects is not None
    return store.objects


def manifests(store: ArtifactStore) -> set[str]:
    return {name for name in shared(store).sizes("artifacts") if name.endswith(MANIFEST)}


def manifest_name(ref: Ref) -> str:
    return f"artifacts/{ref.kind}/{ref.key}/{MANIFEST}"


def found(store: ArtifactStore, retention: Retention = NOTHING) -> Garbage:
    return find_garbage(store, retention)


def test_a_record_of_any_machine_keeps_what_it_reaches(
    machine: Machine, url: str, call: MakeCall, later: Later
) -> None:
    one, other = machine("one", url), machine("other", url)
    source = materialise(call("source"), one, "cpu")
    result = materialise(call("result", inputs={"source": source}), one, "cpu")
    stray = materialise(call("stray"), other, "cpu")
    promoted = materialise(call("release"), other, "cpu")
    record_run(one, "name", "command", {"result": result})
    record_run(other, "other", "command", {"stray": stray})
    record_run(other, "other", "command", {"stray": source})
    registry = Registry(one)
    registry.add("dog", release=promoted, training=source, report=source, verdict="promote", asked="", command="")
    assert [run.name for run in read_runs(other)] == ["other", "other", "name"] == [r.name for r in read_runs(one)]
    later(2)
    going = find_garbage(other, Retention(runs=1))
    assert going.shared is not None
    assert [manifest.ref for manifest in going.shared.artifacts] == [stray]
    assert [manifest.ref for manifest in going.artifacts] == [stray]
    assert collect(other, going) > 0
    assert manifests(one) == {manifest_name(ref) for ref in (source, result, promoted)}
    assert not shared(one).sizes(f"artifacts/{stray.kind}/{stray.key}")
    assert not (other.root / "artifacts" / stray.kind / stray.key).exists()
    assert find_garbage(other, Retention(runs=1)).total_bytes == 0
    assert other.path(result).is_dir()


def test_the_young_stay_and_a_day_is_the_least(machine: Machine, url: str, call: MakeCall, later: Later) -> None:
    store = machine("one", url)
    materialise(call("young"), store, "cpu")
    later(0.9)
    assert found(store).total_bytes == 0
    with pytest.raises(UserError, match="min_age_h: expected at least 24 h in a store that machines share, got 1"):
        found(store, Retention(min_age_h=1))


def test_uploads_that_never_ended_go_when_they_are_old(machine: Machine, url: str, later: Later) -> None:
    store, upload = machine("one", url), f"artifacts/text/{'0' * 32}/{'1' * 16}"
    shared(store).write(f"{upload}/deep/er.txt", b"half")
    assert found(store).total_bytes == 0
    later(2)
    going = found(store)
    assert going.shared is not None and going.shared.loose == {"uploads": {f"{upload}/deep/er.txt": 4}}
    assert collect(store, going) == 4
    assert shared(store).sizes("artifacts") == {}


def test_an_upload_that_somebody_goes_on_with_stays(machine: Machine, url: str, later: Later) -> None:
    store, upload = machine("one", url), f"artifacts/text/{'0' * 32}/{'1' * 16}"
    shared(store).write(f"{upload}/a", b"half")
    later(2)
    going = found(store)
    later(-2)
    shared(store).write(f"{upload}/b", b"more")
    assert collect(store, going) == 0
    assert set(shared(store).sizes("artifacts")) == {f"{upload}/a", f"{upload}/b"}


def test_what_the_dead_left_goes_and_the_living_keep(machine: Machine, url: str, later: Later) -> None:
    store = machine("one", url)
    old = {
        "leases/train-1/00000001.json": b"{}",
        "leases/train-1/00000001.beat": b"9",
        "cells/images/packs/1.pack": b"old",
        "trainings/1f/state.json": b"{}",
        "prefect/records/text-1f": b"{}",
        "damaged/text-1-1.json": b"{}",
    }
    for name, data in old.items():
        shared(store).write(name, data)
    assert found(store).total_bytes == 0
    later(1.5)
    assert set(loose(found(store))) == {*list(old)[:2], "damaged/text-1-1.json"}
    later(30)
    assert set(loose(found(store))) == set(old)
    collect(store, found(store))
    assert not any(shared(store).sizes(folder) for folder in ("leases", "cells", "trainings", "damaged", "prefect"))


def loose(going: Garbage) -> dict[str, int]:
    assert going.shared is not None
    return {name: size for names in going.shared.loose.values() for name, size in names.items()}


def test_a_run_that_ends_meanwhile_keeps_what_it_reaches(
    machine: Machine, url: str, call: MakeCall, later: Later
) -> None:
    one, other = machine("one", url), machine("other", url)
    source = materialise(call("source"), one, "cpu")
    middle = materialise(call("middle", inputs={"source": source}), one, "cpu")
    later(2)
    retention = Retention(runs=1)
    going = find_garbage(one, retention)
    assert going.shared is not None and len(going.shared.artifacts) == 2
    result = materialise(call("result", inputs={"middle": middle}), other, "cpu")
    record_run(other, "name", "command", {"result": result})
    collect(one, going)
    assert manifests(one) == {manifest_name(ref) for ref in (source, middle, result)}
    third = machine("third", url)
    assert all((third.path(ref) / "inputs.txt").is_file() for ref in (source, middle, result))


def upload_again(store: ArtifactStore, ref: Ref, before_manifest: Callable[[], None]) -> None:
    """As another machine that has the files does; something happens when it has looked which ones are there."""
    objects = Objects(shared(store).url)
    create = objects.create

    def late(name: str, data: bytes) -> bool:
        before_manifest()
        return create(name, data)

    objects.create = late  # type: ignore[method-assign]
    manifest = ArtifactStore(store.root).manifest(ref.kind, ref.key)
    assert manifest is not None
    Copies(objects).push(manifest, store.root / "artifacts" / ref.kind / ref.key)


def require_no_torn(store: ArtifactStore) -> None:
    copies = Copies(shared(store))
    for manifest in copies.manifests(copies.keys()):
        assert copies.missing(manifest) == []


def test_an_upload_between_manifest_and_files_is_taken_back(
    machine: Machine, url: str, call: MakeCall, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other machine finds the files there, and writes the manifest just before they go."""
    store, other = machine("one", url), machine("other", url)
    ref = materialise(call("twice"), store, "cpu")
    other.path(ref)
    later(2)
    going, objects = found(store), shared(store)
    remove = objects.remove

    def racing(names: list[str]) -> None:
        names = list(names)
        if any("/text/" in name and not name.endswith(MANIFEST) for name in names):
            monkeypatch.setattr(objects, "remove", remove)
            upload_again(other, ref, lambda: None)
            assert manifests(store)
        remove(names)

    monkeypatch.setattr(objects, "remove", racing)
    collect(store, going)
    assert manifests(store) == set()
    require_no_torn(store)
    assert materialise(call("twice"), machine("third", url), "cpu") == ref
    require_no_torn(store)


def test_an_upload_that_slept_through_a_collection_sends_what_was_taken(
    machine: Machine, url: str, call: MakeCall, later: Later
) -> None:
    """It had seen the files before they went, and writes the manifest after the collection is over."""
    store, other = machine("one", url), machine("other", url)
    ref = materialise(call("twice"), store, "cpu")
    other.path(ref)
    later(2)
    upload_again(other, ref, lambda: None if not manifests(store) else void(collect(store, found(store))))
    assert not Copies(shared(store)).missing(manifest_of(store, ref))
    assert machine("reader", url).find_whole(ref.kind, ref.key) == ref
    require_no_torn(store)


def void(_: object) -> None:
    return None


def manifest_of(store: ArtifactStore, ref: Ref) -> garbage.Manifest:
    found_there = Copies(shared(store)).manifest(ref.kind, ref.key)
    assert found_there is not None
    return found_there


@pytest.mark.parametrize("kill_at", first_of(range(4)))
def test_what_a_killed_collection_left_the_next_one_finds(
    kill_at: int, machine: Machine, url: str, call: MakeCall, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("one", url)
    for text in ("a", "b"):
        materialise(call(text), store, "cpu")
    shared(store).write(f"artifacts/text/{'0' * 32}/{'1' * 16}/x", b"half")
    later(2)
    going, objects, removed = found(store), shared(store), 0
    remove = objects.remove

    def killed(names: list[str]) -> None:
        nonlocal removed
        for name in names:
            removed += 1
            if removed > kill_at:
                raise KeyboardInterrupt
            remove([name])

    monkeypatch.setattr(objects, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(store, going)
    monkeypatch.setattr(objects, "remove", remove)
    collect(store, found(store))
    assert objects.sizes("artifacts") == {}


def test_copies_that_somebody_reads_stay(machine: Machine, file_url: str, call: MakeCall, later: Later) -> None:
    from tests.processes import CLEAN

    store = machine("one", file_url)
    ref = materialise(call("read"), store, "cpu")
    later(2)
    going = found(store)
    reading = CLEAN.Event()
    reader = CLEAN.Process(target=read, args=(store.place, ref, reading))
    reader.start()
    assert reading.wait(120)
    collect(store, going)
    assert (store.root / "artifacts" / ref.kind / ref.key / MANIFEST).is_file()
    reader.terminate()
    reader.join()
    collect(store, going)
    assert not (store.root / "artifacts" / ref.kind / ref.key).exists()


def read(place: object, ref: Ref, reading: object) -> None:
    ArtifactStore.at(place).path(ref)  # type: ignore[arg-type]
    reading.set()  # type: ignore[attr-defined]
    time.sleep(600)


def test_two_collections_come_one_after_the_other(machine: Machine, url: str, call: MakeCall, later: Later) -> None:
    stores = [machine(name, url) for name in ("one", "other")]
    for number in range(4):
        materialise(call(f"{number}"), stores[0], "cpu")
    later(2)
    going = [found(store) for store in stores]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(collect, stores, going))
    assert shared(stores[0]).sizes("artifacts") == {}


def test_a_folder_store_keeps_its_own_rule(store: ArtifactStore, call: MakeCall, tmp_path: Path) -> None:
    materialise(call("a"), store, "cpu")
    assert found(store, Retention(runs=0, min_age_h=0)).shared is None
    os.utime(store.root / "artifacts")
    assert len(found(store, Retention(runs=0, min_age_h=0)).artifacts) == 1
