"""Models of a shared store: no number twice, no move lost, whoever races or dies; and a folder for who uses them."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sdxl_core.errors import UserError
from tasks.manifest import MANIFEST, Ref
from tasks.pulling import pull_production
from tasks.registry import Registry
from tasks.stage import Call, materialise
from tasks.store import ArtifactStore
from tasks.versions import Moved
from tests.buckets import new_url
from tests.processes import CLEAN
from tests.tasks.conftest import TEXT
from tests.tasks.shared.conftest import Machine, machine_at

EVENTS = "models/dog/history"


def release(store: ArtifactStore, text: str = "one") -> Ref:
    return materialise(Call(TEXT, "release", {"text": text}), store, "cpu")


def add(store: ArtifactStore, text: str = "one", verdict: str = "promote") -> int:
    made = release(store, text)
    added = Registry(store).add(
        "dog", release=made, training=made, report=made, verdict=verdict, asked=text, command="test"
    )
    return added.number


def production(store: ArtifactStore) -> int | None:
    current = Registry(store).production("dog")
    return None if current is None else current.number


def told(store: ArtifactStore) -> dict[str, Any]:
    """What production.json says."""
    assert store.objects is not None
    read = store.objects.read("models/dog/production.json")
    assert read is not None
    return dict(json.loads(read))


def test_what_one_machine_promotes_another_has(machine: Machine, url: str) -> None:
    one, other = machine("one", url), machine("other", url)
    assert (add(one, "one"), add(other, "two")) == (1, 2)
    Registry(one).point("dog", 1, "promoted", expected=None, reason="gates")
    registry = Registry(other)
    assert registry.names() == ["dog"] and registry.require("dog").number == 1
    registry.point("dog", 2, "promoted", expected=1, reason="gates")
    assert production(one) == 2
    assert Registry(one).earlier("dog", Registry(one).require("dog")).number == 1
    happened = [(event.what, event.version, event.before) for event in Registry(one).history("dog")]
    judged = [("judged", 1, None), ("judged", 2, None)]
    assert happened == [*judged, ("promoted", 1, None), ("promoted", 2, 1)]
    assert registry.versions("dog") == Registry(one).versions("dog")
    assert told(one)["version"] == 2 and told(one)["url"].startswith(url)
    assert [event.what for event in registry.since_it_moved("dog")] == ["promoted"]


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_eight_threads_never_get_one_number_twice_and_lose_no_move(kind: str, machine: Machine, tmp_path: Path) -> None:
    url = new_url(kind, tmp_path)
    stores = [machine(str(number), url) for number in range(8)]
    made = release(stores[0])
    barrier = threading.Barrier(8)

    def work(store: ArtifactStore) -> list[int]:
        registry, numbers = Registry(store), []
        barrier.wait()
        for turn in range(2):
            asked = f"{store.root.name}-{turn}"
            added = registry.add(
                "dog", release=made, training=made, report=made, verdict="promote", asked=asked, command=""
            )
            numbers.append(added.number)
            assert added.asked == asked
            move_to(registry, added.number)
        return numbers

    with ThreadPoolExecutor(8) as threads:
        numbers = [number for some in threads.map(work, stores) for number in some]
    assert sorted(numbers) == list(range(1, 17))
    require_unbroken(stores[0])


def move_to(registry: Registry, number: int) -> int:
    """Until it succeeds; returns how often it had to look again."""
    for lost in range(1000):
        current = registry.production("dog")
        try:
            registry.point(
                "dog", number, "promoted", expected=None if current is None else current.number, reason=f"{number}"
            )
            return lost
        except Moved:
            continue
    raise AssertionError("never came through")


def require_unbroken(store: ArtifactStore) -> None:
    """Every move knows what was there before it, and the object that consumers watch tells of the last one."""
    events = Registry(store).history("dog")
    moves = [event for event in events if event.what == "promoted"]
    assert [event.before for event in moves] == [None, *(event.version for event in moves[:-1])]
    assert sorted(event.version or 0 for event in moves) == [one.number for one in Registry(store).versions("dog")]
    assert sum(event.what == "judged" for event in events) == len(moves)
    assert production(store) == moves[-1].version == told(store)["version"]


def race(url: str, folder: Path, number: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    store = machine_at(url, folder / str(number))
    ref = Ref.model_validate_json((folder / "release.json").read_text())
    for turn in range(3):
        registry = Registry(store)
        asked = f"{number}-{turn}"
        added = registry.add("dog", release=ref, training=ref, report=ref, verdict="promote", asked=asked, command="")
        move_to(registry, added.number)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["file", "s3"])
def test_four_processes_never_get_one_number_twice_and_lose_no_move(
    kind: str, tmp_path: Path, machine: Machine, request: pytest.FixtureRequest
) -> None:
    if kind == "s3":
        request.getfixturevalue("server")
    url = new_url(kind, tmp_path)
    (tmp_path / "release.json").write_text(release(machine("first", url)).model_dump_json())
    # children come of a server whose environment is older than the bucket
    bucket = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    racers = [CLEAN.Process(target=race, args=(url, tmp_path, number, bucket)) for number in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(300)
        assert racer.exitcode == 0
    store = machine("last", url)
    assert [one.number for one in Registry(store).versions("dog")] == list(range(1, 13))
    require_unbroken(store)


def test_of_two_that_promote_at_once_one_is_told(machine: Machine, url: str) -> None:
    one, other = machine("one", url), machine("other", url)
    add(one, "one")
    add(one, "two")
    Registry(one).point("dog", 1, "promoted", expected=None, reason="")
    with pytest.raises(Moved, match="dog: version 1 is in production by now, not None"):
        Registry(other).point("dog", 2, "promoted", expected=None, reason="")
    assert production(other) == 1


def test_an_answer_that_was_lost_is_no_defeat(machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object was created, and the client's own second attempt was refused."""
    store = machine("one", url)
    assert add(store) == 1
    assert store.objects is not None
    create = store.objects.create

    def repeated(name: str, data: bytes) -> bool:
        return create(name, data) and not (name.startswith("models/") and not create(name, data))

    monkeypatch.setattr(store.objects, "create", repeated)
    Registry(store).point("dog", 1, "promoted", expected=None, reason="")
    assert add(store, "two") == 2
    assert production(store) == 1
    assert [event.what for event in Registry(store).history("dog")] == ["judged", "promoted", "judged"]


def test_what_tells_of_production_is_mended_by_the_next_who_looks(machine: Machine, url: str) -> None:
    store = machine("one", url)
    add(store, "one")
    registry = Registry(store)
    registry.point("dog", 1, "promoted", expected=None, reason="")
    assert store.objects is not None
    for behind in (b'{"version": 7}', b""):
        store.objects.write("models/dog/production.json", behind)
        assert production(machine("other", url)) == 1
        assert told(store)["version"] == 1
    store.objects.remove(["models/dog/production.json"])
    assert production(store) == 1 and told(store)["digest"] == registry.require("dog").release.digest


def test_nothing_is_fetched_twice(machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine("one", url)
    for number in range(1, 6):
        add(store, f"{number}")
        Registry(store).point("dog", number, "promoted", expected=number - 1 or None, reason="")
    looking = machine("other", url)
    assert production(looking) == 5
    asked: list[str] = []
    assert looking.objects is not None
    read = looking.objects.read
    monkeypatch.setattr(looking.objects, "read", lambda name: asked.append(name) or read(name))
    monkeypatch.setattr(looking.objects, "listed", asked.append)
    registry = Registry(looking)
    assert len(registry.history("dog")) == 10
    assert asked == [f"{EVENTS}/00000011.json"]


def test_a_copy_that_was_torn_is_fetched_again(machine: Machine, url: str) -> None:
    store = machine("one", url)
    add(store, "one")
    Registry(store).point("dog", 1, "promoted", expected=None, reason="")
    copies = sorted(store.root.glob(f"shared/*/{EVENTS}/*.json"))
    assert len(copies) == 2
    copies[0].write_bytes(copies[0].read_bytes()[:20])
    copies[1].write_bytes(b"")
    assert [event.what for event in Registry(store).history("dog")] == ["judged", "promoted"]


def test_stores_of_two_urls_know_nothing_of_each_other(machine: Machine, tmp_path: Path) -> None:
    one, two = (machine("same", new_url("file", tmp_path)) for _ in range(2))
    add(one)
    assert Registry(two).names() == [] and Registry(two).versions("dog") == []
    assert Registry(ArtifactStore(one.root)).names() == []


def test_what_only_one_machine_has_is_not_promoted(machine: Machine, file_url: str) -> None:
    store = machine("one", file_url)
    assert add(store) == 1
    made = Registry(store).version("dog", 1).release
    assert store.objects is not None
    store.objects.remove([f"artifacts/{made.kind}/{made.key}/{MANIFEST}"])
    with pytest.raises(UserError, match="expected a release in the shared store"):
        Registry(store).point("dog", 1, "promoted", expected=None, reason="")


def test_names_lead_nowhere_else(machine: Machine, file_url: str) -> None:
    for name in ("../dog", "a/b", "", "Dog", "x" * 64):
        with pytest.raises(UserError, match="model: expected lower-case letters"):
            Registry(machine("one", file_url)).production(name)


def test_retrainings_of_one_model_come_one_after_the_other(machine: Machine, url: str) -> None:
    inside: list[int] = []

    def retrain(number: int) -> None:
        with Registry(machine(f"{number % 2}", url)).retraining("dog"):
            inside.append(number)
            assert len(inside) == 1
            threading.Event().wait(0.05)
            inside.remove(number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(retrain, range(4)))


@pytest.mark.parametrize("shared", [True, False])
def test_who_uses_a_model_has_a_folder_of_its_own(
    shared: bool, machine: Machine, file_url: str, tmp_path: Path
) -> None:
    store = machine("trainer", file_url) if shared else ArtifactStore(tmp_path / "store")
    for number in (1, 2, 3):
        add(store, f"{number}")
    user = machine("user", file_url) if shared else store
    registry, folder = Registry(user), tmp_path / "served"
    with pytest.raises(UserError, match="with a version in production"):
        pull_production(registry, "dog", folder)
    for number in (1, 2, 3, 2):
        current = Registry(store).production("dog")
        before = None if current is None else current.number
        Registry(store).point("dog", number, "promoted", expected=before, reason="")
        done = pull_production(registry, "dog", folder)
        assert json.loads(done.told())["version"] == number
        assert (folder / "production" / "deep" / "er" / "text.txt").read_text() == f"{number}"
    assert {path.name for path in (folder / "versions").iterdir()} == {"2", "3"}
    assert not (folder / "production" / "deep").samefile(user.path(done.version.release) / "deep")
    (folder / "versions" / "2" / "inputs.txt").unlink(missing_ok=True)
    (folder / "versions" / "2" / "deep" / "er" / "text.txt").write_text("much longer")
    pull_production(registry, "dog", folder)
    assert (folder / "production" / "deep" / "er" / "text.txt").read_text() == "2"


def test_a_folder_with_something_else_is_left_alone(machine: Machine, file_url: str, tmp_path: Path) -> None:
    store = machine("one", file_url)
    add(store)
    Registry(store).point("dog", 1, "promoted", expected=None, reason="")
    (tmp_path / "mine" / "production").mkdir(parents=True)
    with pytest.raises(UserError, match="--to: expected an empty folder"):
        pull_production(Registry(store), "dog", tmp_path / "mine")
