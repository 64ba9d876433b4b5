"""The link to production is one whole version or another, whoever dies or races; and the history tells how it came."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from sdxl_core.errors import UserError
from tasks.gc import Retention, collect, find_garbage
from tasks.manifest import Ref
from tasks.registry import Registry
from tasks.stage import Call, materialise
from tasks.store import ArtifactStore
from tasks.versions import Moved
from tests.processes import CLEAN, killed_at_every_touch
from tests.tasks.conftest import TEXT


def release(store: ArtifactStore, text: str) -> Ref:
    return materialise(Call(TEXT, "release", {"text": text}), store, "cpu")


def add(store: ArtifactStore, text: str, verdict: str = "promote", name: str = "dog") -> int:
    made = release(store, text)
    registry = Registry(store)
    return registry.add(
        name, release=made, training=made, report=made, verdict=verdict, asked=text, command="test"
    ).number


def production(store: ArtifactStore) -> int | None:
    current = Registry(store).production("dog")
    return None if current is None else current.number


def promote(root: Path) -> None:
    Registry(ArtifactStore(root)).point("dog", 2, "promoted", expected=1, reason="")


def keep(root: Path) -> None:
    made = ArtifactStore(root)
    ref = next(made.manifests("text")).ref
    Registry(made).add("dog", release=ref, training=ref, report=ref, verdict="reject", asked="x", command="test")


@pytest.fixture
def two(store: ArtifactStore) -> ArtifactStore:
    """The first of two versions in production."""
    add(store, "one")
    add(store, "two")
    Registry(store).point("dog", 1, "promoted", expected=None, reason="")
    return store


def copies(of: Path, to: Path) -> Any:
    def prepare(n: int) -> tuple[Path]:
        shutil.copytree(of, to / str(n), symlinks=True)
        return (to / str(n),)

    return prepare


def test_a_kill_at_any_point_of_a_promotion_leaves_one_version_or_the_other(two: ArtifactStore, tmp_path: Path) -> None:
    seen = set()
    for (root,) in killed_at_every_touch(promote, copies(two.root, tmp_path / "killed"), least=15):
        store = ArtifactStore(root)
        now = production(store)
        seen.add(now)
        assert now in (1, 2) and (root / "models" / "dog" / "production" / "inputs.txt").is_file()
        if now == 1:
            promote(root)
        Registry(store).note("dog", "announced", 2)
        told = [(event.what, event.version, event.before) for event in Registry(store).history("dog")]
        assert production(store) == 2 and told[-2:] == [("promoted", 2, 1), ("announced", 2, None)]
        shutil.rmtree(root)
    assert seen == {1, 2}


def test_a_kill_at_any_point_of_keeping_a_candidate_harms_none(two: ArtifactStore, tmp_path: Path) -> None:
    for (root,) in killed_at_every_touch(keep, copies(two.root, tmp_path / "killed")):
        store = ArtifactStore(root)
        numbers = [version.number for version in Registry(store).versions("dog")]
        assert numbers in ([1, 2], [1, 2, 3]) and production(store) == 1
        keep(root)
        assert [v.number for v in Registry(store).versions("dog")] == [*numbers, len(numbers) + 1]
        shutil.rmtree(root)


def test_of_two_that_promote_at_once_one_wins_and_the_other_is_told(two: ArtifactStore) -> None:
    add(two, "three")
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def run(number: int) -> None:
        registry = Registry(ArtifactStore(two.root))
        barrier.wait()
        try:
            registry.point("dog", number, "promoted", expected=1, reason="")
            outcomes.append("won")
        except Moved as moved:
            outcomes.append(str(moved))

    threads = [threading.Thread(target=run, args=(number,)) for number in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = production(two)
    assert sorted(outcomes) == sorted(["won", f"dog: version {winner} is in production by now, not 1"])


def test_readers_never_meet_a_moment_without_production(two: ArtifactStore) -> None:
    """Two processes move it to and fro while this one reads."""
    movers = [CLEAN.Process(target=to_and_fro, args=(two.root, 40)) for _ in range(2)]
    for mover in movers:
        mover.start()
    file = two.root / "models" / "dog" / "production" / "deep" / "er" / "text.txt"
    seen = set()
    while any(mover.is_alive() for mover in movers):
        seen.add(file.read_text())
    for mover in movers:
        mover.join()
        assert mover.exitcode == 0
    assert seen == {"one", "two"}
    moves = [event for event in Registry(two).history("dog") if event.what != "judged"]
    assert [event.before for event in moves[1:]] == [event.version for event in moves[:-1]]


def to_and_fro(root: Path, times: int) -> None:
    registry = Registry(ArtifactStore(root))
    for _ in range(times):
        current = registry.require("dog").number
        try:
            registry.point("dog", 3 - current, "rolled back", expected=current, reason="")
        except Moved:
            continue


def test_back_goes_to_what_was_there_before(two: ArtifactStore) -> None:
    registry = Registry(two)
    with pytest.raises(UserError, match="nothing was in production before version 1"):
        registry.earlier("dog", registry.require("dog"))
    registry.point("dog", 2, "promoted", expected=1, reason="")
    add(two, "three")
    registry.point("dog", 3, "promoted", expected=2, reason="")
    assert registry.earlier("dog", registry.require("dog")).number == 2
    registry.point("dog", 2, "rolled back", expected=3, reason="")
    assert registry.earlier("dog", registry.require("dog")).number == 1


def test_collection_keeps_what_is_in_production_and_the_last_of_each_sort(store: ArtifactStore) -> None:
    registry = Registry(store)
    for number, verdict in enumerate(("promote", "promote", "promote", "reject", "reject"), 1):
        assert add(store, f"{number}", verdict) == number
        if verdict == "promote":
            registry.point("dog", number, "promoted", expected=number - 1 or None, reason="")
    registry.point("dog", 1, "rolled back", expected=3, reason="")
    collect(store, find_garbage(store, Retention(runs=0, versions=2, min_age_h=0)))
    kept = {v.number for v in registry.versions("dog") if store.find_whole("text", v.release.key)}
    assert kept == {1, 3, 4, 5}
    with pytest.raises(UserError, match=r"dog@2: its release .* is not in the store any more"):
        registry.point("dog", 2, "rolled back", expected=1, reason="")
    assert production(store) == 1


def test_names_lead_nowhere_else(store: ArtifactStore) -> None:
    for name in ("../dog", "a/b", "", ".", "Dog", "dog\n", "x" * 64):
        with pytest.raises(UserError, match="model: expected lower-case letters"):
            Registry(store).production(name)


def test_what_is_not_there_is_told(two: ArtifactStore) -> None:
    registry = Registry(two)
    with pytest.raises(UserError, match=r"dgo: expected a model .* Did you mean 'dog'\?"):
        registry.require("dgo")
    with pytest.raises(UserError, match=r"dog@7: expected a version \(1, 2\), got 7"):
        registry.point("dog", 7, "promoted", expected=1, reason="")


def test_a_history_with_a_torn_line_goes_on(two: ArtifactStore) -> None:
    path = two.root / "models" / "dog" / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    registry = Registry(two)
    registry.point("dog", 2, "promoted", expected=1, reason="")
    assert [event.what for event in registry.history("dog")][-1] == "promoted"
    assert os.readlink(registry.at("dog")) == "versions/2"
