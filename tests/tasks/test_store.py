"""Laws of the artifact store."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from sdxl_core.disk import file_sha256
from tasks.damage import damage_of_all
from tasks.manifest import MANIFEST, Json, Ref
from tasks.stage import Call, Job, materialise
from tasks.store import ArtifactStore, DamagedArtifact
from tests.processes import CLEAN, killed_at_every_touch
from tests.tasks.conftest import MakeCall, write_text


def in_child(call: Call, store: ArtifactStore) -> BaseProcess:
    """Materialise in another process, already started."""
    child = CLEAN.Process(target=materialise, args=(call, store, "cpu"))
    child.start()
    return child


def counting_builds(call: Call, log: Path, pause_s: float = 0) -> Call:
    """The same call, noting every build in a file that other processes share."""
    return replace(call, stage=replace(call.stage, build=partial(write_text_slowly, log, pause_s)))


def write_text_slowly(log: Path, pause_s: float, job: Job) -> dict[str, Json]:
    with log.open("a") as stream:
        stream.write("built\n")
    time.sleep(pause_s)
    return write_text(job)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)


def test_the_second_time_nothing_is_built(store: ArtifactStore, call: MakeCall, tmp_path: Path) -> None:
    counted = counting_builds(call(), tmp_path / "log")
    assert materialise(counted, store, "cpu") == materialise(counted, store, "cpu")
    assert (tmp_path / "log").read_text() == "built\n"


def test_content_digest_depends_on_bytes_and_names_alone(tmp_path: Path, call: MakeCall) -> None:
    first = materialise(call(), ArtifactStore(tmp_path / "a"), "cpu")
    again = materialise(call(label="another name"), ArtifactStore(tmp_path / "elsewhere" / "b"), "cpu")
    other = materialise(call("other"), ArtifactStore(tmp_path / "a"), "cpu")
    assert first == again  # the log in it differs every time
    assert first.digest != other.digest


def test_downstream_keys_follow_content_not_history(store: ArtifactStore, call: MakeCall) -> None:
    one, two = Ref(kind="text", key="1", digest="same"), Ref(kind="text", key="2", digest="same")
    assert call(inputs={"source": one}).recipe().key == call(inputs={"source": two}).recipe().key
    three = Ref(kind="text", key="1", digest="other")
    assert call(inputs={"source": one}).recipe().key != call(inputs={"source": three}).recipe().key


def test_key_depends_on_kind_code_and_params(call: MakeCall) -> None:
    base = call()
    others = [
        replace(base, params={"text": "x"}),
        replace(base, stage=replace(base.stage, version="2")),
        replace(base, stage=replace(base.stage, kind="prose")),
    ]
    assert len({base.recipe().key, *(other.recipe().key for other in others)}) == 4
    assert replace(base, label="x", local={"place": "y"}).recipe().key == base.recipe().key


def test_deleting_an_artifact_costs_its_recomputation_only(store: ArtifactStore, call: MakeCall) -> None:
    source = materialise(call("source"), store, "cpu")
    result = materialise(call(inputs={"source": source}), store, "cpu")
    shutil.rmtree(store.path(source))
    assert materialise(call("source"), store, "cpu") == source
    assert store.find(result.kind, call(inputs={"source": source}).recipe().key) == result


@pytest.mark.parametrize("harm", ["missing", "short", "no manifest", "broken manifest", "foreign manifest"])
def test_a_damaged_artifact_is_set_aside_named_and_rebuilt(
    store: ArtifactStore, call: MakeCall, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    ref = materialise(call(), store, "cpu")
    other = materialise(call("other"), store, "cpu")
    place = store.path(ref)
    if harm == "missing":
        (place / "inputs.txt").unlink()
    elif harm == "short":
        (place / "deep/er/text.txt").write_text("hell")
    elif harm == "no manifest":
        (place / MANIFEST).unlink()
    elif harm == "broken manifest":
        (place / MANIFEST).write_text("{")
    else:
        shutil.copy(store.path(other) / MANIFEST, place / MANIFEST)
    with pytest.raises(DamagedArtifact):
        store.find(ref.kind, ref.key)
    with caplog.at_level(logging.WARNING, "sdxl_flows.store"):
        assert materialise(call(), store, "cpu") == ref
    assert str(ref) in caplog.text
    assert store.find(ref.kind, ref.key) == ref
    assert len(list((store.root / "damaged").iterdir())) == 1


def test_verify_finds_bytes_changed_at_the_same_size(store: ArtifactStore, call: MakeCall) -> None:
    ref = materialise(call("hello"), store, "cpu")
    assert list(damage_of_all(store)) == []
    (store.path(ref) / "deep/er/text.txt").write_text("jello")
    assert store.find(ref.kind, ref.key) == ref  # a hit is checked by presence and size only
    [(kind, key, damage)] = damage_of_all(store)
    assert (kind, key) == (ref.kind, ref.key) and "deep/er/text.txt" in damage


def in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process has read whole is unknown to the next one."""
    monkeypatch.setattr("tasks.store._read_whole", set())


@pytest.mark.parametrize("remote", [True, False])
def test_where_digests_are_asked_for_other_bytes_are_never_used(
    tmp_path: Path, call: MakeCall, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, remote: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if remote:
        monkeypatch.setenv("SDXL_FLOWS_STORE_REMOTE", "1")
    store = ArtifactStore(tmp_path / "store", "auto" if remote else "digests")
    ref = materialise(call(), store, "cpu")
    (store.path(ref) / "deep/er/text.txt").write_text("jello")
    in_another_process(monkeypatch)
    with pytest.raises(DamagedArtifact, match=r"text\.txt holds other bytes"):
        store.find(ref.kind, ref.key)
    with caplog.at_level(logging.WARNING, "sdxl_flows.store"):
        assert materialise(call(), store, "cpu") == ref
    assert f"damaged artifact {ref}" in caplog.text
    assert (store.path(ref) / "deep/er/text.txt").read_text() == "hello"


def test_what_has_been_read_whole_is_not_read_again(
    tmp_path: Path, call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path / "store", "digests")
    ref = materialise(call(), store, "cpu")
    read: list[Path] = []
    monkeypatch.setattr("tasks.manifest.file_sha256", lambda path: read.append(path) or file_sha256(path))
    in_another_process(monkeypatch)
    for _ in range(3):
        assert store.find(ref.kind, ref.key) == ref
    assert len(read) == 3  # its files, once each


def test_a_failed_build_leaves_no_artifact_and_keeps_its_work(store: ArtifactStore, call: MakeCall) -> None:
    def fails_once(job: Job) -> dict[str, object]:
        seen = job.work / "seen"
        if not seen.exists():
            seen.write_text("x")
            (job.out / "half").write_text("half")
            raise RuntimeError("no luck")
        return write_text(job)

    flaky = replace(call(), stage=replace(call().stage, build=fails_once))
    with pytest.raises(RuntimeError, match="no luck"):
        materialise(flaky, store, "cpu")
    assert store.find_whole("text", flaky.recipe().key) is None
    ref = materialise(flaky, store, "cpu")
    assert not (store.path(ref) / "half").exists()
    assert not store.work_path(ref.kind, ref.key).exists()


def test_links_are_refused(store: ArtifactStore, call: MakeCall, tmp_path: Path) -> None:
    def links(job: Job) -> dict[str, object]:
        (job.out / "link").symlink_to(tmp_path)
        return {}

    with pytest.raises(ValueError, match="plain file"):
        materialise(replace(call(), stage=replace(call().stage, build=links)), store, "cpu")


@pytest.mark.ci
def test_a_kill_at_any_point_of_a_write_leaves_all_or_nothing(tmp_path: Path, call: MakeCall) -> None:
    intact = materialise(call(), ArtifactStore(tmp_path / "intact"), "cpu")
    for root, _ in killed_at_every_touch(materialise_at, lambda n: (tmp_path / str(n), call())):
        survivor = ArtifactStore(root)
        found = survivor.find(intact.kind, intact.key)  # raises DamagedArtifact if half of it were visible
        assert found in (None, intact)
        assert materialise(call(), survivor, "cpu") == intact
        assert list(damage_of_all(survivor)) == []
        assert not list((root / "staging").iterdir())


def materialise_at(root: Path, call: Call) -> None:
    materialise(call, ArtifactStore(root), "cpu")


def test_two_processes_build_once(store: ArtifactStore, call: MakeCall, tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [in_child(counting_builds(call(), log, pause_s=0.5), store) for _ in range(3)]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert log.read_text() == "built\n"


def test_who_waits_says_for_whom(
    store: ArtifactStore, call: MakeCall, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"
    child = in_child(counting_builds(call(), log, pause_s=1), store)
    wait_for(log)
    with caplog.at_level(logging.WARNING, "sdxl_flows.store"):
        materialise(call(), store, "cpu")
    child.join()
    assert f"process {child.pid}" in caplog.text


def test_the_lock_of_a_killed_builder_is_free(store: ArtifactStore, call: MakeCall, tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = in_child(counting_builds(call(), log, pause_s=60), store)
    wait_for(log)
    child.kill()
    child.join()
    ref = materialise(call(), store, "cpu")
    assert store.find(ref.kind, ref.key) == ref
