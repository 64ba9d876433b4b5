"""Laws of a store that several machines share: built once, read by all, never in part."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks.damage import damage_of_all
from tasks.manifest import MANIFEST, Json, Ref, content_digest
from tasks.shared import files
from tasks.shared.objects import Objects
from tasks.stage import Call, Job, materialise
from tasks.store import ArtifactStore, DamagedArtifact
from tests.tasks.conftest import MakeCall, write_text
from tests.tasks.shared.conftest import Machine


def text_of(store: ArtifactStore, ref: Ref) -> str:
    return (store.path(ref) / "deep" / "er" / "text.txt").read_text()


def noted(log: Path, pause_s: float, job: Job) -> dict[str, Json]:
    with log.open("a") as stream:
        stream.write("built\n")
    time.sleep(pause_s)
    return write_text(job)


def noting(call: Call, log: Path, pause_s: float = 0) -> Call:
    return replace(call, stage=replace(call.stage, build=partial(noted, log, pause_s)))


def object_of(url: str, ref: Ref, file: str) -> str:
    """The name of an artifact's file in the shared store."""
    return next(name for name in Objects(url).sizes(f"artifacts/{ref}") if name.endswith(file))


def test_what_one_machine_has_built_is_read_by_another(
    url: str, machine: Machine, call: MakeCall, tmp_path: Path
) -> None:
    one, two = machine("one", url), machine("two", url)
    counted = noting(call(), tmp_path / "log")
    built = materialise(counted, one, "cpu")
    assert materialise(counted, two, "cpu") == built and (tmp_path / "log").read_text() == "built\n"
    assert not (tmp_path / "two" / "artifacts").exists(), "brought here before anybody asked for its files"
    assert text_of(two, built) == "hello"
    here, there = ({path.name: path.read_bytes() for path in store.path(built).rglob("*.*")} for store in (one, two))
    assert here == there and len(here) == 4
    assert two.summary(built) == one.summary(built) == {"letters": 5}
    assert [manifest.ref for manifest in two.manifests()] == [built]


def test_machines_that_want_the_same_at_the_same_time_build_it_once(
    s3_url: str, machine: Machine, call: MakeCall, tmp_path: Path
) -> None:
    stores = [machine(name, s3_url) for name in ("one", "two", "three")]
    counted = noting(call(), tmp_path / "log", pause_s=3)  # longer than a lease lasts in silence
    with ThreadPoolExecutor(3) as threads:
        refs = list(threads.map(lambda store: materialise(counted, store, "cpu"), stores))
    assert len(set(refs)) == 1 and (tmp_path / "log").read_text() == "built\n"


def test_what_is_being_built_anywhere_is_known(url: str, machine: Machine, call: MakeCall, tmp_path: Path) -> None:
    one, two = machine("one", url), machine("two", url)
    places = (one, two, ArtifactStore(tmp_path / "one"))
    seen: list[bool] = []

    def look(job: Job) -> dict[str, Json]:
        seen.extend(store.is_being_built("text", key) for store in places)
        return write_text(job)

    looking = replace(call(), stage=replace(call().stage, build=look))
    key = looking.recipe().key
    materialise(looking, one, "cpu")
    assert seen == [True, True, True]
    assert not any(store.is_being_built("text", key) for store in places)


def test_what_was_there_before_it_was_shared_is_sent_when_it_is_used(
    url: str, machine: Machine, call: MakeCall, tmp_path: Path
) -> None:
    built = materialise(call(), ArtifactStore(tmp_path / "one"), "cpu")
    one, two = machine("one", url), machine("two", url)
    assert not one.is_shared(built) and two.find("text", built.key) is None
    counted = noting(call(), tmp_path / "log")
    assert materialise(counted, one, "cpu") == built and not (tmp_path / "log").exists()
    assert one.is_shared(built) and text_of(two, built) == "hello"


def test_of_two_that_differ_the_first_counts(file_url: str, machine: Machine, call: MakeCall, tmp_path: Path) -> None:
    def otherwise(job: Job) -> dict[str, Json]:
        (job.out / "other.txt").write_text("other")
        return {}

    other = replace(call(), stage=replace(call().stage, build=otherwise))
    mine = materialise(other, ArtifactStore(tmp_path / "one"), "cpu")
    first = materialise(call(), machine("two", file_url), "cpu")
    one = machine("one", file_url)
    assert first.key == mine.key and first != mine
    assert materialise(other, one, "cpu") == first
    assert text_of(one, first) == "hello"


def test_without_a_manifest_there_is_nothing(file_url: str, machine: Machine, call: MakeCall) -> None:
    ref = materialise(call(), machine("one", file_url), "cpu")
    Objects(file_url).remove([f"artifacts/{ref}/{MANIFEST}"])
    two = machine("two", file_url)
    assert two.find("text", ref.key) is None and list(two.manifests()) == []


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_what_lost_a_file_is_damaged_and_built_again(
    harm: str, file_url: str, machine: Machine, call: MakeCall, tmp_path: Path
) -> None:
    ref = materialise(call(), machine("one", file_url), "cpu")
    name = object_of(file_url, ref, "text.txt")
    if harm == "missing":
        Objects(file_url).remove([name])
    else:
        Objects(file_url).write(name, b"hel")
    two = machine("two", file_url)
    with pytest.raises(DamagedArtifact, match=r"text\.txt"):
        two.find("text", ref.key)
    counted = noting(call(), tmp_path / "log")
    again = materialise(counted, two, "cpu")
    assert again == ref and (tmp_path / "log").read_text() == "built\n"
    assert text_of(machine("three", file_url), again) == "hello"


def test_other_bytes_of_the_same_size_are_never_read(
    file_url: str, machine: Machine, call: MakeCall, tmp_path: Path
) -> None:
    ref = materialise(call(), machine("one", file_url), "cpu")
    Objects(file_url).write(object_of(file_url, ref, "text.txt"), b"HELLO")
    two = machine("two", file_url)
    with pytest.raises(UserError, match=r"damaged \(text.txt holds other bytes.*run again"):
        two.path(ref)
    assert not (tmp_path / "two" / "artifacts" / str(ref)).exists()
    again = materialise(call(), two, "cpu")
    assert text_of(machine("three", file_url), again) == "hello"


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "a/../../outside.txt", MANIFEST])
def test_a_manifest_cannot_name_what_is_outside(
    name: str, file_url: str, machine: Machine, call: MakeCall, tmp_path: Path
) -> None:
    one = machine("one", file_url)
    ref = materialise(call(), one, "cpu")
    manifest = one.manifest("text", ref.key)
    assert manifest is not None
    named = {name: next(iter(manifest.files.values()))}
    harmful = manifest.model_copy(update={"files": named, "digest": content_digest(named)})
    Objects(file_url).write(f"artifacts/{ref}/{MANIFEST}", harmful.model_dump_json().encode())
    with pytest.raises(DamagedArtifact, match="no file of an artifact"):
        machine("two", file_url).find("text", ref.key)


def test_an_interrupted_way_goes_on_where_it_was(
    url: str, machine: Machine, call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, and back; of files in parts as well."""
    monkeypatch.setattr(files, "PART_BYTES", 1000)
    big = call("x" * 10_500)
    one = machine("one", url)
    written, read = list[str](), list[str]()
    write, read_object = Objects.write, Objects.read

    def failing_write(self: Objects, name: str, data: bytes) -> None:
        if "text.txt" in name:
            written.append(name)
            if len(written) == 5:
                raise ConnectionError("cable")
        write(self, name, data)

    monkeypatch.setattr(Objects, "write", failing_write)
    with pytest.raises(ConnectionError):
        materialise(big, one, "cpu")
    ref = materialise(big, one, "cpu")
    assert len(written) == 12, "11 parts, one of them twice"

    def failing_read(self: Objects, name: str) -> bytes | None:
        if "text.txt" in name:
            read.append(name)
            if len(read) == 5:
                raise ConnectionError("cable")
        return read_object(self, name)

    monkeypatch.setattr(Objects, "read", failing_read)
    two = machine("two", url)
    with pytest.raises(ConnectionError):
        two.path(ref)
    assert text_of(two, ref) == "x" * 10_500
    assert len(read) == 12
    assert not list(two.root.rglob("*.part")) and not list(two.root.rglob("*.come"))


def test_copies_that_nobody_reads_go_when_room_is_wanted(
    file_url: str, machine: Machine, call: MakeCall, tmp_path: Path
) -> None:
    one = machine("one", file_url)
    refs = [materialise(call(letter * 40_000), one, "cpu") for letter in "abc"]
    two = machine("two", file_url, cache_bytes=200_000)
    places = [tmp_path / "two" / "artifacts" / str(ref) for ref in refs]
    for ref in refs:
        two.path(ref)
    assert all(place.exists() for place in places), "all are in use by this process"
    three = machine("three", file_url, cache_bytes=200_000)
    for ref in refs:
        assert brought_by_another_process(three, ref) == ref.kind
    kept = [(tmp_path / "three" / "artifacts" / str(ref)).exists() for ref in refs]
    assert kept == [False, True, True], "the longest unused went"
    assert text_of(three, refs[0]) == "a" * 40_000


def brought_by_another_process(store: ArtifactStore, ref: Ref) -> str:
    code = (
        "import sys; from tasks.manifest import Ref; from tasks.store import ArtifactStore, StorePlace\n"
        "root, url, limit, kind, key, digest = sys.argv[1:]\n"
        "store = ArtifactStore.at(StorePlace(root, 'auto', url, int(limit)))\n"
        "print(store.path(Ref(kind=kind, key=key, digest=digest)).parent.name)"
    )
    place = store.place
    said = [place.root, str(place.url), str(place.cache_bytes), ref.kind, ref.key, ref.digest]
    done = subprocess.run([sys.executable, "-c", code, *said], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_cells_are_computed_once_for_all_machines(url: str, machine: Machine) -> None:
    one, two = machine("one", url), machine("two", url)
    cells = one.cells("scores")
    for number in range(50):
        cells[f"{number:032x}"] = b"%d" % number
    assert f"{7:032x}" not in two.cells("scores"), "not sent yet"
    one.share_cells()
    theirs = two.cells("scores")
    assert [theirs[f"{number:032x}"] for number in range(50)] == [b"%d" % number for number in range(50)]
    assert "f" * 32 not in theirs
    assert len(Objects(url).listed("cells/scores/packs")) == 1


def test_cells_of_a_process_that_was_killed_are_sent_by_the_next(file_url: str, machine: Machine) -> None:
    one = machine("one", file_url)
    code = (
        "import os, sys; from tasks.store import ArtifactStore, StorePlace\n"
        "cells = ArtifactStore.at(StorePlace(sys.argv[1], 'auto', sys.argv[2])).cells('scores')\n"
        "cells['a' * 32] = b'value'\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(one.root), file_url], check=False).returncode == -9
    two = machine("two", file_url)
    assert "a" * 32 not in two.cells("scores")
    one.cells("scores")["b" * 32] = b"other"
    one.share_cells()
    found = two.cells("scores")
    assert found["a" * 32] == b"value" and found["b" * 32] == b"other"


def test_a_damaged_pack_is_none(file_url: str, machine: Machine) -> None:
    one, two = machine("one", file_url), machine("two", file_url)
    cells = one.cells("scores")
    cells["a" * 32] = b"value"
    one.share_cells()
    [pack] = Objects(file_url).listed("cells/scores/packs")
    data = Objects(file_url).read(pack)
    assert data is not None
    Objects(file_url).write(pack, data[:-1] + b"!")
    assert "a" * 32 not in two.cells("scores")
    Objects(file_url).write(pack, data[:20])
    assert "a" * 32 not in machine("three", file_url).cells("scores")


def test_every_byte_is_checked_without_a_copy(s3_url: str, machine: Machine, call: MakeCall) -> None:
    one, two = machine("one", s3_url), machine("two", s3_url)
    ref, whole = materialise(call(), one, "cpu"), materialise(call("whole"), one, "cpu")
    assert list(damage_of_all(two)) == []
    Objects(s3_url).write(object_of(s3_url, ref, "text.txt"), b"HELLO")
    [(kind, key, damage)] = damage_of_all(two)
    assert (kind, key) == (ref.kind, ref.key) and "in the shared store: deep/er/text.txt holds other bytes" in damage
    two.set_aside(kind, key, damage)
    assert not (two.root / "artifacts").exists() and two.find(ref.kind, ref.key) is None
    assert two.find(whole.kind, whole.key) == whole
