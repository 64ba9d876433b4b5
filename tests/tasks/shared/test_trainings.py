"""A training whose machine was lost goes on elsewhere, from the last bundle that was shared."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from sdxl_core.bundles import MANIFEST, bundle_name
from tasks.shared import trainings
from tasks.shared.objects import Objects
from tasks.shared.trainings import SharedTraining

KEY = "0123456789abcdef0123456789abcdef"


def write_bundle(folder: Path, step: int, content: bytes) -> None:
    """As the trainer's: its manifest last."""
    place = folder / "bundles" / bundle_name(step)
    place.mkdir(parents=True)
    (place / "weights.safetensors").write_bytes(content)
    files = {"weights.safetensors": {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}}
    (place / MANIFEST).write_text(json.dumps({"files": files}))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(trainings, "_SETTLED_S", 0.0)


def test_another_machine_goes_on(url: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with SharedTraining(Objects(url), KEY, one).kept():
        write_bundle(one, 10, b"ten" * 1000)
        (one / "logs").mkdir()
        (one / "logs" / "mine.txt").write_text("mine")
        (one / "validation").mkdir()
        (one / "validation" / "step-10.png").write_bytes(b"picture")
        (one / "bundles" / ".staging-step-20").mkdir()
        (one / "bundles" / ".staging-step-20" / "half").write_bytes(b"half")
    with SharedTraining(Objects(url), KEY, two).kept():
        here = {path.relative_to(two).as_posix(): path.read_bytes() for path in two.rglob("*") if path.is_file()}
    bundle = f"bundles/{bundle_name(10)}"
    assert set(here) == {f"{bundle}/{MANIFEST}", f"{bundle}/weights.safetensors", "validation/step-10.png"}
    assert here[f"{bundle}/weights.safetensors"] == b"ten" * 1000


def test_bundles_are_sent_while_it_trains_and_old_ones_go(file_url: str, tmp_path: Path) -> None:
    objects, one = Objects(file_url), tmp_path / "one"
    with SharedTraining(objects, KEY, one).kept():
        for step in (10, 20):
            write_bundle(one, step, b"%d" % step * 100)
            deadline = time.monotonic() + 30
            while json.loads(objects.read(f"trainings/{KEY}/state.json") or b'{"step": 0}')["step"] != step:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            if step == 10:
                for path in (one / "bundles" / bundle_name(10)).iterdir():
                    path.unlink()
                (one / "bundles" / bundle_name(10)).rmdir()
    assert len(objects.sizes(f"trainings/{KEY}/files")) == 2


def test_what_is_further_here_stays(file_url: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with SharedTraining(Objects(file_url), KEY, one).kept():
        write_bundle(one, 10, b"ten")
    write_bundle(two, 20, b"twenty")
    with SharedTraining(Objects(file_url), KEY, two).kept():
        assert [path.name for path in (two / "bundles").iterdir()] == [bundle_name(20)]


@pytest.mark.parametrize("harm", ["lost", "other bytes", "state", "outside"])
def test_what_is_not_whole_is_not_used(
    harm: str, file_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objects, one, two = Objects(file_url), tmp_path / "one", tmp_path / "two"
    with SharedTraining(objects, KEY, one).kept():
        write_bundle(one, 10, b"ten")
    state = f"trainings/{KEY}/state.json"
    weights = next(name for name, size in objects.sizes(f"trainings/{KEY}/files").items() if size == 3)
    if harm == "lost":
        objects.remove([weights])
    elif harm == "other bytes":
        objects.write(weights, b"TEN")
    elif harm == "state":
        objects.write(state, b"{")
    else:
        objects.write(state, json.dumps({"step": 10, "files": {"../x": ["0" * 64, 1]}}).encode())
    with SharedTraining(objects, KEY, two).kept():
        assert not list(two.glob("bundles/*")), "the trainer would stop at a damaged one"
    assert not (tmp_path / "x").exists() and "not whole" in caplog.text
