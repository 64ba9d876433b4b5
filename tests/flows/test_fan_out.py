"""Stages made in parts: the same bytes from every engine."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.config import RuntimeConfig
from tasks.drawn import STAGE as DRAWN
from tasks.fan_out.config import EngineName, FanOutConfig
from tasks.manifest import Ref
from tasks.slots import Slot
from tasks.stage import Call, job_of, materialise
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
