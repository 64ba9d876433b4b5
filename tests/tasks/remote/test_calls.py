"""Calls as JSON: the same call on another machine, or a clear refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.manifest import Ref
from tasks.remote.calls import RemoteCall, as_call, as_remote
from tasks.remote.run import End, end_place
from tasks.stage import Call, Stage
from tasks.store import ArtifactStore, StorePlace
from tests.buckets import new_url
from tests.tasks.toy import Plan

CALL = "calls/train-x/job-1.json"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.at(StorePlace(str(tmp_path / "driver"), "auto", new_url("file", tmp_path)))


@pytest.fixture
def training(plan: Plan) -> Call:
    return plan()["train"]


@pytest.fixture
def remote(training: Call, store: ArtifactStore) -> RemoteCall:
    return as_remote(training, store, from_hub=True, run="toy", limit_s=60)


def test_the_same_call_elsewhere(training: Call, remote: RemoteCall, store: ArtifactStore, tmp_path: Path) -> None:
    other = ArtifactStore.at(StorePlace(str(tmp_path / "other"), "auto", store.place.url))
    call = as_call(RemoteCall.model_validate_json(remote.model_dump_json()), other)
    assert call.recipe() == training.recipe() and call.devices == training.devices
    assert Path(call.local["model"]).is_relative_to(other.root)
    assert {**call.local, "model": training.local["model"]} == training.local


def test_other_code_is_refused(remote: RemoteCall, store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match=r"stage train: expected code version 99, got .* here\. Let both sides"):
        as_call(remote.model_copy(update={"version": "99"}), store)


def test_other_parameters_are_refused(remote: RemoteCall, store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match="expected a call of key"):
        as_call(remote.model_copy(update={"params": {**remote.params, "max_steps": 3}}), store)


def test_a_place_without_an_origin_is_refused(remote: RemoteCall, store: ArtifactStore) -> None:
    """It would be a place of the driver's, or of anybody's."""
    with pytest.raises(ConfigError, match=r"expected the places that a call of it names, got model"):
        as_call(remote.model_copy(update={"places": ()}), store)


def test_another_base_is_refused(training: Call, store: ArtifactStore, tmp_path: Path) -> None:
    """Whole by itself, and not what the key speaks of."""
    config = Path(str(training.local["model"])) / "unet" / "config.json"
    config.write_text(config.read_text().replace('"layers_per_block": 1', '"layers_per_block": 1, "more": 1'))
    changed = as_remote(training, store, from_hub=True)
    with pytest.raises(ConfigError, match="expected the base model of the call's key"):
        as_call(changed, store)


@pytest.mark.parametrize(
    ("kind", "hint"), [("report", "can run on another machine"), ("trains", "Did you mean 'train'")]
)
def test_other_stages_stay_here(kind: str, hint: str, store: ArtifactStore) -> None:
    call = Call(
        Stage(kind=kind, version="1", build=lambda job: {}), kind, {}, {"x": Ref(kind="x", key="y", digest="z")}
    )
    with pytest.raises(ConfigError, match=hint):
        as_remote(call, store, from_hub=True)


def carried_out(name: str, store: ArtifactStore, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    assert store.place.url is not None
    variables = {"SDXL_FLOWS_STORE": store.place.url, "SDXL_FLOWS_CACHE": str(tmp_path / "container")}
    words = [sys.executable, "-m", "tasks.remote.run", name]
    return subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300)


def test_a_machine_refuses_with_exit_code_2(remote: RemoteCall, store: ArtifactStore, tmp_path: Path) -> None:
    """One message, no traceback, and the same message for whoever waits."""
    assert store.objects is not None
    store.objects.write(CALL, remote.model_copy(update={"version": "99"}).model_dump_json().encode())
    done = carried_out(CALL, store, tmp_path)
    assert done.returncode == 2 and "expected code version 99" in done.stderr and "Traceback" not in done.stderr
    end = End.model_validate_json(store.objects.read(end_place(CALL)) or b"")
    assert (end.code, end.passes) == (2, False) and "expected code version 99" in end.message


def test_a_call_of_another_version_is_refused(remote: RemoteCall, store: ArtifactStore, tmp_path: Path) -> None:
    file = tmp_path / "call.json"
    file.write_text(remote.model_dump_json().replace('"schema_version":1', '"schema_version":2'))
    done = carried_out(str(file), store, tmp_path)
    assert done.returncode == 2 and "expected a call of this version, got schema_version" in done.stderr
