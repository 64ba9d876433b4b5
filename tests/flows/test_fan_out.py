"""Stages made in parts: the same bytes from every engine, and what happens when a part fails."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks import fan_out
from tasks.config import RuntimeConfig, TimeoutHours
from tasks.drawn import STAGE as DRAWN
from tasks.errors import ConfigError, StageTimedOut
from tasks.fan_out.config import EngineName, FanOutConfig
from tasks.fan_out.engines import Engine
from tasks.fan_out.fan import ShardFailed
from tasks.manifest import Json, Ref
from tasks.progress import Progress
from tasks.slots import Slot
from tasks.stage import Call, Job, Stage, job_of, materialise
from tasks.store import ArtifactStore
from tests.flows.fanned import FANNED, Fanned, digests, fresh

pytestmark = pytest.mark.usefixtures("prefect_api")
THREADS = FanOutConfig(engine="threads", shards=2)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fanned, dict[str, Ref], dict[str, Call]]:
    """What the stages are without any engine, and their calls."""
    fanned = Fanned(tmp_path_factory.mktemp("local"))
    refs = fanned.local()
    return fanned, refs, fanned.calls()


@pytest.fixture
def empty(local: tuple[Fanned, dict[str, Ref], dict[str, Call]], tmp_path: Path) -> Fanned:
    """The same pictures and prompts, and nothing made of them."""
    return Fanned(tmp_path)


def all_alike(empty: Fanned, local: tuple[Fanned, dict[str, Ref], dict[str, Call]], engine: EngineName) -> None:
    refs = empty.fan_out(FanOutConfig(engine=engine, shards=2))
    assert digests(refs) == digests(local[1])
    assert empty.generated(refs) == dict.fromkeys(FANNED, 0)  # shards had made everything


@pytest.mark.ci
def test_threads_make_the_same(empty: Fanned, local: tuple[Fanned, dict[str, Ref], dict[str, Call]]) -> None:
    all_alike(empty, local, "threads")


@pytest.mark.ci
def test_processes_make_the_same(empty: Fanned, local: tuple[Fanned, dict[str, Ref], dict[str, Call]]) -> None:
    all_alike(empty, local, "processes")


@pytest.mark.slow
def test_dask_makes_the_same(empty: Fanned, local: tuple[Fanned, dict[str, Ref], dict[str, Call]]) -> None:
    pytest.importorskip("prefect_dask")
    all_alike(empty, local, "dask")


@pytest.mark.slow
def test_ray_makes_the_same(empty: Fanned, local: tuple[Fanned, dict[str, Ref], dict[str, Call]]) -> None:
    pytest.importorskip("prefect_ray")
    all_alike(empty, local, "ray")


@pytest.fixture
def forgetful(local: tuple[Fanned, dict[str, Ref], dict[str, Call]], tmp_path: Path) -> ArtifactStore:
    """A store with all artifacts, and no cell beneath them."""
    shutil.copytree(local[0].store.root, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "cells")
    return ArtifactStore(tmp_path / "store")


@pytest.mark.ci
@pytest.mark.parametrize("label", [*FANNED, "drawn"])
def test_cells_are_the_same_in_any_company(
    label: str,
    local: tuple[Fanned, dict[str, Ref], dict[str, Call]],
    forgetful: ArtifactStore,
    tmp_path: Path,
) -> None:
    """Made one by one, the last first; and none is left for the build."""
    fanned, _, calls = local
    call = drawn_call(calls["images/base"]) if label == "drawn" else calls[label]
    expected = materialise(call, fanned.store, "cpu")
    assert call.stage.cells is not None
    job = job_of(call, forgetful, Slot("cpu"), lambda *_: None, out=tmp_path, work=tmp_path)
    cells = call.stage.cells(job)
    numbers = sorted(number for batch in cells.missing("cpu") for number in batch)
    assert len(numbers) > 2
    for number in reversed(numbers):
        assert cells.fill([number], "cpu", lambda *_: None) == 1 and cells.has(number)
    assert cells.missing("cpu") == [] and cells.fill(numbers, "cpu", lambda *_: None) == 0
    again = materialise(fresh(call, "again"), forgetful, "cpu")
    assert again.digest == expected.digest and again.key != expected.key
    assert fanned.generated({label: again}) in ({}, {label: 0})


def drawn_call(images: Call) -> Call:
    """A dataset that the same model draws of the same prompts."""
    drawn = {"pictures_per_prompt": 2, "sampling": images.params["sampling"], "seed": 3}
    kept = {name: value for name, value in images.params.items() if name not in ("sampling", "replicates", "seed")}
    return replace(images, stage=DRAWN, label="drawn", params={**kept, "drawn": drawn})


def no_engine(*_: object) -> None:
    raise AssertionError("an engine was started")


def test_no_engine_is_started_for_nothing_or_one_batch(
    local: tuple[Fanned, dict[str, Ref], dict[str, Call]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(local[0].store.root, tmp_path / "store")
    fanned = replace_store(local[0], tmp_path / "store")
    call = local[2]["images/base"]
    monkeypatch.setattr("tasks.fan_out.fan.opened", no_engine)
    runtime = RuntimeConfig(device="cpu", fan_out=FanOutConfig(engine="processes", shards=8))
    assert fanned.only(call, runtime) == local[1]["images/base"]
    assert fanned.only(fresh(call, "known"), runtime).digest == local[1]["images/base"].digest
    pictures = fanned.store.cells("images")
    for key in list(pictures)[:1]:
        del pictures[key]
    assert fanned.only(fresh(call, "one missing"), runtime).digest == local[1]["images/base"].digest


def replace_store(fanned: Fanned, root: Path) -> Fanned:
    other = object.__new__(Fanned)
    other.folder, other.store = fanned.folder, ArtifactStore(root)
    return other


# from here on, values that are made of their number alone, by a stage whose parts misbehave on request


@dataclass
class Numbers:
    """Cells with the numbers' squares; what is asked for happens once, when the number's turn has come."""

    store: ArtifactStore
    asked: dict[str, Json]

    def has(self, number: int) -> bool:
        return f"{number:016x}" in self.store.cells("numbers")

    def missing(self, device: str) -> list[list[int]]:
        return [[number] for number in range(self.asked["count"]) if not self.has(number)]

    def fill(self, numbers: Collection[int], device: str, progress: Progress) -> int:
        made = 0
        for number in numbers:
            if not self.has(number):
                self.misbehave(number)
                self.store.cells("numbers")[f"{number:016x}"] = str(number**2).encode()
                made += 1
            progress(made, len(numbers))
        return made

    def misbehave(self, number: int) -> None:
        time.sleep(self.asked.get("seconds", 0))
        with (self.store.root / "log").open("a") as log:
            log.write(f"{number} {os.getpid()} {time.monotonic()} {os.environ.get('OMP_WAIT_POLICY')}\n")
        what = self.asked.get("at", {}).get(str(number))
        once = self.store.root / f"done-{number}"
        if what is None or once.exists():
            return
        once.touch()
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"user": UserError("mend your picture"), "bug": RuntimeError("a bug"), "pass": ConnectionError("gone")}[
            what
        ]


def cells_of(job: Job) -> Numbers:
    return Numbers(job.store, dict(job.params))


def build(job: Job) -> dict[str, Json]:
    numbers = cells_of(job)
    left = [number for batch in numbers.missing(job.device) for number in batch]
    numbers.fill(left, job.device, job.progress)
    cells = job.store.cells("numbers")
    (job.out / "squares.txt").write_text(" ".join(cells[key].decode() for key in sorted(cells)))
    return {"left": len(left)}


STAGE = Stage(kind="text", version="1", build=build, cells=cells_of)
ENGINES: list[EngineName] = ["threads", "processes"]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fanned]:
    monkeypatch.setattr("tasks.policies.RETRY_DELAYS_S", [0.0, 0.0])
    toy = object.__new__(Fanned)
    toy.folder, toy.store = tmp_path, ArtifactStore(tmp_path / "store")
    yield toy


def runtime(engine: EngineName, shards: int = 2, hours: float | None = None) -> RuntimeConfig:
    fan_out = FanOutConfig(engine=engine, shards=shards)
    return RuntimeConfig(device="cpu", fan_out=fan_out, timeout_hours=TimeoutHours(text=hours))


def log_of(toy: Fanned) -> list[list[str]]:
    return [line.split() for line in (toy.store.root / "log").read_text().splitlines()]


@pytest.mark.ci
@pytest.mark.parametrize("engine", ENGINES)
def test_there_are_no_more_shards_than_work(engine: EngineName, toy: Fanned, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[str] = []
    submit = Engine.submit

    def counted(self: Engine, task: object, parameters: dict[str, object]) -> object:
        submitted.append(str(parameters["shard"]))
        return submit(self, task, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "submit", counted)
    ref = toy.only(Call(STAGE, "toy", {"count": 3}), runtime(engine, shards=8))
    assert (toy.store.path(ref) / "squares.txt").read_text() == "0 1 4"
    assert len(submitted) == 3 and toy.store.summary(ref) == {"left": 0}
    assert sorted(number for number, *_ in log_of(toy)) == ["0", "1", "2"]


@pytest.mark.ci
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("what", "kind", "told"), [("user", ConfigError, "mend"), ("bug", ShardFailed, "a bug")])
def test_a_failing_shard_is_told_by_its_number_and_costs_the_others_nothing(
    engine: EngineName, what: str, kind: type[Exception], told: str, toy: Fanned
) -> None:
    call = Call(STAGE, "toy", {"count": 6, "at": {"4": what}})
    with pytest.raises(kind, match=rf"^toy: shard 2 of 2: .*{told}"):
        toy.only(call, runtime(engine))
    assert Numbers(toy.store, {"count": 6}).missing("cpu") == [[4], [5]]
    ref = toy.only(call, runtime(engine))
    assert (toy.store.path(ref) / "squares.txt").read_text() == "0 1 4 9 16 25"
    assert sorted(number for number, *_ in log_of(toy)) == ["0", "1", "2", "3", "4", "4", "5"]


@pytest.mark.ci
@pytest.mark.parametrize("said", [None, "active"])
def test_shards_that_outnumber_processors_wait_asleep(
    said: str | None, toy: Fanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless somebody has said otherwise; and what the run itself starts later waits as ever."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", said)
    toy.only(Call(STAGE, "toy", {"count": 3}), runtime("processes"))
    assert {policy for *_, policy in log_of(toy)} == {said or "passive"}
    assert os.environ.get("OMP_WAIT_POLICY") == said


def test_what_passes_is_tried_again_with_what_is_missing(toy: Fanned) -> None:
    ref = toy.only(Call(STAGE, "toy", {"count": 6, "at": {"1": "pass"}}), runtime("threads"))
    assert toy.store.summary(ref) == {"left": 0}
    assert sorted(number for number, *_ in log_of(toy)) == ["0", "1", "1", "2", "3", "4", "5"]


@pytest.mark.ci
def test_a_killed_worker_costs_what_it_had_in_hand(toy: Fanned) -> None:
    ref = toy.only(Call(STAGE, "toy", {"count": 6, "at": {"4": "kill"}}), runtime("processes"))
    assert (toy.store.path(ref) / "squares.txt").read_text() == "0 1 4 9 16 25"
    assert toy.store.summary(ref) == {"left": 0}
    workers = {worker for _, worker, *_ in log_of(toy)}
    assert str(os.getpid()) not in workers and len(workers) > 2


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_killed_worker_of_a_cluster_too(engine: EngineName, toy: Fanned) -> None:
    pytest.importorskip(f"prefect_{engine}")
    ref = toy.only(Call(STAGE, "toy", {"count": 6, "at": {"4": "kill"}}), runtime(engine))
    assert (toy.store.path(ref) / "squares.txt").read_text() == "0 1 4 9 16 25"
    assert toy.store.summary(ref) == {"left": 0}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_failing_shard_of_a_cluster_too(engine: EngineName, toy: Fanned) -> None:
    pytest.importorskip(f"prefect_{engine}")
    with pytest.raises(ConfigError, match=r"^toy: shard 2 of 2: .*mend"):
        toy.only(Call(STAGE, "toy", {"count": 6, "at": {"4": "user"}}), runtime(engine))


@pytest.mark.slow
def test_a_cluster_that_runs_already_is_looked_at_first(toy: Fanned, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is there afterwards; what nobody answers at is said."""
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("prefect_dask")
    call, local = Call(STAGE, "toy", {"count": 6}), {"placed": str(toy.folder / "model")}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        there = FanOutConfig(engine="dask", address=cluster.scheduler_address)
        runs = RuntimeConfig(device="cpu", fan_out=there)
        ref = toy.only(call, runs)
        assert (toy.store.path(ref) / "squares.txt").read_text() == "0 1 4 9 16 25"
        assert len({worker for _, worker, *_ in log_of(toy)}) == 2 and not list(toy.store.cells("marks"))
        more = Call(STAGE, "toy", {"count": 9}, local=local)
        with pytest.raises(ConfigError, match=r"toy: shard 1 of 2: the worker .* has no .*model"):
            toy.only(more, runs)
        assert len(log_of(toy)) == 6
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    with pytest.raises(ConfigError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:4319"):
        toy.only(more, RuntimeConfig(device="cpu", fan_out=FanOutConfig(engine="dask", address="tcp://127.0.0.1:4319")))


def test_shards_have_the_stage_s_limit(toy: Fanned) -> None:
    call = Call(STAGE, "toy", {"count": 40, "seconds": 0.1})
    with pytest.raises(StageTimedOut, match=r"toy shard \d/2: stopped after .*runtime\.timeout_hours\.text"):
        toy.only(call, runtime("threads", hours=0.5 / 3600))
    assert 2 <= len(log_of(toy)) < 40


def test_a_shard_holds_a_device(toy: Fanned, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one place for two shards, one computes after the other."""
    monkeypatch.setenv("SDXL_FLOWS_CPU_SLOTS", "1")
    toy.only(Call(STAGE, "toy", {"count": 8, "seconds": 0.02}), runtime("threads"))
    order = [int(number) // 4 for number, _, at, _ in sorted(log_of(toy), key=lambda line: float(line[2]))]
    assert order in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)


@pytest.mark.ci
@pytest.mark.parametrize("engine", ENGINES)
def test_shards_end_with_the_run(engine: EngineName, toy: Fanned, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stops the flow (here as Ctrl-C does) stops them, long before they are done."""

    def interrupted(self: object, ended: object) -> None:
        if (toy.store.root / "log").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(fan_out.fan._Watch, "look", interrupted)  # type: ignore[attr-defined]
    started = time.monotonic()
    with pytest.raises(BaseException, match=r"KeyboardInterrupt|interrupt|^$"):
        toy.only(Call(STAGE, "toy", {"count": 4000, "seconds": 0.05}), runtime(engine))
    begun = len(log_of(toy))
    time.sleep(1.5)
    after = len(log_of(toy))
    time.sleep(0.5)
    assert len(log_of(toy)) == after and begun < 4000 and time.monotonic() - started < 60
    assert not [thread for thread in threading.enumerate() if "watches who" in thread.name]
