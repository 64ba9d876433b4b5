"""Devices as the command line shows and asks for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.slots import Wish, device_slot
from tasks.store import ArtifactStore
from tests.flows.conftest import Cli
from tests.tasks.toy import fill_store, write_experiment


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SDXL_FLOWS_SLOTS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.ci
@pytest.mark.parametrize("command", ["plan", "run"])
def test_more_gpus_than_there_are_is_told_before_anything_runs(command: str, tmp_path: Path, cli: Cli) -> None:
    write_experiment(tmp_path / "toy")
    done = cli(command, "toy/toy.yaml", "--set", "training.processes=3")
    assert done.returncode == 2 and done.stdout == ""
    assert "error: train: expected 3 GPUs, got 2 visible here (gpu-0, gpu-1). Lower training.processes" in done.stderr
    assert cli("plan", "toy/toy.yaml", "--set", "training.processes=2").returncode == 0
    assert cli("plan", "toy/toy.yaml", "--set", "training.processes=3", "--set", "runtime.device=cpu").returncode == 0


def test_what_is_there_already_needs_no_gpu(tmp_path: Path, cli: Cli) -> None:
    """A training by more GPUs than this machine has, reused."""
    command = "sdxl-flows run toy/toy.yaml --set training.processes=3"
    config = write_experiment(tmp_path / "toy")
    fill_store(config, ArtifactStore(tmp_path / "store"), command, {"training.processes": 3})
    done = cli("run", "toy/toy.yaml", "--set", "training.processes=3")
    assert done.returncode == 0, done.stderr


def test_a_limit_for_a_stage_there_is_not_is_refused(tmp_path: Path, cli: Cli) -> None:
    write_experiment(tmp_path / "toy")
    done = cli("plan", "toy/toy.yaml", "--set", "runtime.timeout_hours.training=36")
    assert done.returncode == 2
    assert "runtime.timeout_hours.training: unknown key" in done.stderr and "Did you mean 'train'?" in done.stderr
    done = cli("plan", "toy/toy.yaml", "--set", "runtime.timeout_hours.train=0")
    assert done.returncode == 2 and "runtime.timeout_hours.train: expected greater than 0, got 0" in done.stderr


def test_slots_are_shown_and_left_alone(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with device_slot(tmp_path / "store", Wish("train", "auto", run="dog"), lambda _: None):
        shown = cli("slots").stdout.splitlines()
    who = f"process {os.getpid()} on {os.uname().nodename} (train of run dog), since "
    assert shown[0].split(maxsplit=1)[0] == "gpu-0" and who in shown[0] and shown[0].endswith("(0 min)")
    assert shown[1:] == ["gpu-1  free"]
    assert cli("slots").stdout.splitlines() == ["gpu-0  free", "gpu-1  free"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "nobody waits" in cli("slots", "--store", tmp_path / "elsewhere").stdout
    assert not (tmp_path / "elsewhere").exists()
