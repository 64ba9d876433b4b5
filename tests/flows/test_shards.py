"""Parts of a stage: how it is divided, and what happens when a part fails.

The stage makes values of their number alone, and misbehaves on request.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks import fan_out
from tasks.config import RuntimeConfig, TimeoutHours
from tasks.errors import ConfigError, StageTimedOut
from tasks.fan_out.config import EngineName, FanOutConfig
from tasks.fan_out.engines import Engine
from tasks.fan_out.fan import ShardFailed
from tasks.manifest import Json
from tasks.progress import Progress
from tasks.stage import Call, Job, Stage
from tasks.store import ArtifactStore
from tests.flows.fanned import Fanned

pytestmark = pytest.mark.usefixtures("prefect_api")


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
