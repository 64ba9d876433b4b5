"""How work is divided, and what the settings may be."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sdxl_core.turns import Turns
from tasks.config import RuntimeConfig
from tasks.errors import ConfigError
from tasks.fan_out.config import FanOutConfig
from tasks.fan_out.engines import require_engine
from tasks.fan_out.parts import divide, from_ranges, to_ranges
from tasks.fan_out.shard import Mark, Shard, reach
from tasks.manifest import library_versions
from tasks.policies import prefect_runner
from tasks.stage import Call, Stage
from tasks.store import ArtifactStore

BATCHES = st.lists(st.integers(1, 4), max_size=30).map(
    lambda sizes: [list(range(sum(sizes[:i]), sum(sizes[: i + 1]))) for i in range(len(sizes))]
)


@given(batches=BATCHES, shards=st.integers(1, 12))
def test_every_number_has_one_shard_and_no_batch_is_torn(batches: list[list[int]], shards: int) -> None:
    parts = divide(batches, shards)
    assert [number for part in parts for number in part] == [number for batch in batches for number in batch]
    assert len(parts) == min(shards, len(batches)) and all(parts)
    counts = [sum(batch[0] in part for batch in batches) for part in parts]
    assert not counts or max(counts) - min(counts) <= 1
    assert all(set(batch) <= set(part) for batch in batches for part in parts if batch[0] in part)


@given(numbers=st.sets(st.integers(0, 200)))
def test_ranges_say_the_same_in_fewer_words(numbers: set[int]) -> None:
    ranges = to_ranges(numbers)
    assert from_ranges(ranges) == sorted(numbers)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(ranges))


def test_a_cluster_needs_an_engine_that_has_one() -> None:
    FanOutConfig(engine="dask", address="tcp://host:8786", gpus_per_shard=1)
    FanOutConfig(engine="none", address="tcp://host:8786")  # switched off for once
    for given_too in ({"address": "tcp://host:8786"}, {"gpus_per_shard": 1}):
        with pytest.raises(ValidationError, match="is for the engines dask and ray, not threads"):
            FanOutConfig.model_validate({"engine": "threads", **given_too})
    for wrong in ({"shards": 0}, {"shards": "all"}, {"engine": "spark"}, {"workers": 2}):
        with pytest.raises(ValidationError):
            FanOutConfig.model_validate(wrong)


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_an_engine_that_is_not_installed_is_named_at_once(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    runtime = RuntimeConfig.model_validate({"fan_out": {"engine": engine}})
    with pytest.raises(ConfigError, match=rf"pip install 'sdxl-flows\[{engine}\]'"):
        prefect_runner(ArtifactStore.__new__(ArtifactStore), runtime, "toy")


@pytest.mark.parametrize("address", ["tcp://far.example:8786", "far.example:6379"])
def test_workers_elsewhere_need_a_server_that_they_reach(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    config = FanOutConfig(engine="dask", address=address)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}), pytest.raises(ConfigError, match="4200"):
        require_engine(config)
    with temporary_settings({PREFECT_API_URL: "http://prefect.example/api"}):
        require_engine(config)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        require_engine(FanOutConfig(engine="dask", address="tcp://127.0.0.1:8786"))


@pytest.fixture
def call() -> Call:
    return Call(Stage("toy", "1", lambda job: {}), "toy", {})


def shard(store: ArtifactStore, mark: Mark | None) -> Shard:
    return Shard(1, 1, ((0, 0),), store.place, "cpu", "toy", None, 1, mark=mark)


def test_a_worker_that_sees_another_store_says_so(call: Call, tmp_path: Path) -> None:
    mine, theirs = ArtifactStore(tmp_path / "mine"), ArtifactStore(tmp_path / "theirs")
    mark = Mark("ab" * 16, library_versions())
    mine.cells("marks")[mark.key] = b"here"
    assert reach(call, shard(mine, mark)).root == mine.root
    with pytest.raises(ConfigError, match=r"does not see this machine's store .*set runtime\.store"):
        reach(call, shard(theirs, mark))


def test_a_worker_of_other_versions_says_so(call: Call, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    mark = Mark("ab" * 16, {**library_versions(), "torch": "1.0"})
    store.cells("marks")[mark.key] = b"here"
    with pytest.raises(ConfigError, match=r"has torch .*; expected 1\.0"):
        reach(call, shard(store, mark))


def test_a_worker_without_the_model_says_so(call: Call, tmp_path: Path) -> None:
    store, absent = ArtifactStore(tmp_path), str(tmp_path / "models" / "sdxl")
    mark = Mark("ab" * 16, library_versions())
    store.cells("marks")[mark.key] = b"here"
    placed = Call(call.stage, "toy", {}, local={"base": {"unet": [absent]}})
    with pytest.raises(ConfigError, match=f"has no {absent}"):
        reach(placed, shard(store, mark))


def test_nobody_computes_while_one_loads() -> None:
    turns, inside, most = Turns(), {"loading": 0, "computing": 0}, {"loading": 0, "computing": 0, "both": 0}
    lock = threading.Lock()

    @contextlib.contextmanager
    def counted(name: str):  # type: ignore[no-untyped-def]
        with lock:
            inside[name] += 1
            most[name] = max(most[name], inside[name])
            most["both"] = max(most["both"], min(inside.values()))
        yield
        with lock:
            inside[name] -= 1

    def work() -> None:
        for _ in range(5):
            with turns.loading(), counted("loading"):
                time.sleep(0.002)
            with turns.computing(), counted("computing"):
                time.sleep(0.005)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == {"loading": 1, "computing": most["computing"], "both": 0} and most["computing"] > 1
