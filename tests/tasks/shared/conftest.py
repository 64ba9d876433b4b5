"""Machines that share a store: each has a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.shared.leases import LASTS_S
from tasks.store import ArtifactStore, StorePlace
from tests.buckets import KINDS, new_url, s3_server

Machine = Callable[..., ArtifactStore]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty store, on every kind of place."""
    if request.param == "s3":
        request.getfixturevalue("server")
    return new_url(request.param, tmp_path)


@pytest.fixture
def s3_url(server: str, tmp_path: Path) -> str:
    return new_url("s3", tmp_path)


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return new_url("file", tmp_path)


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LASTS_S, "2")


def machine_at(url: str, folder: Path, cache_bytes: int | None = None) -> ArtifactStore:
    return ArtifactStore.at(StorePlace(str(folder), "auto", url, cache_bytes))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """The store at a URL as a machine of some name has it."""

    def named(name: str, url: str, cache_bytes: int | None = None) -> ArtifactStore:
        return machine_at(url, tmp_path / name, cache_bytes)

    return named
