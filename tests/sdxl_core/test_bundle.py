"""Laws of bundles: whole or not there, newest whole one first, and never a fresh start by mistake."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdxl_core import disk
from sdxl_core.bundle import Bundle, BundleWriter, read_bundle, write_bundle
from sdxl_core.bundles import damage, newest_bundle, require_whole, rotate, steps_of
from sdxl_core.disk import DiskFullError
from sdxl_core.errors import UserError
from sdxl_core.overrides import OVERRIDABLE, check_override, refuse_changes
from sdxl_core.training_config import TrainingConfig
from tests.processes import killed_at_every_touch

FILES = ("weights.safetensors", "average.safetensors", "optimizer.pt", "history.jsonl", "state.json")
IDENTITY: dict[str, Any] = {
    "training": {"seed": 1, "learning_rate": 1e-4, "adapter": {"rank": 4}},
    "inputs": {"latents": "abc"},
}


def bundle(step: int) -> Bundle:
    tensor = torch.full((3,), float(step))
    return Bundle(
        step=step,
        weights={"a.lora_A": tensor, "b": tensor * 2},
        average={"a.lora_A": tensor},
        optimizer={"state": {0: {"step": torch.tensor(float(step)), "exp_avg": tensor}}, "param_groups": [{"lr": 0.1}]},
        scaler={"scale": 2.0},
        counters={"step": step, "skipped": 0},
        history='{"step": 1}\n' * step,
        identity=IDENTITY,
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def nothing(text: str) -> None:
    raise AssertionError(f"unexpected: {text}")


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = write_bundle(tmp_path, bundle(3))
    assert damage(path) is None
    assert same(vars(read_bundle(path)), vars(bundle(3)))


def test_a_copy_does_not_change_with_the_run() -> None:
    live = bundle(3)
    copy = live.copied()
    for tensor in (live.weights["b"], live.average["a.lora_A"], live.optimizer["state"][0]["exp_avg"]):
        tensor.zero_()
    assert same(vars(copy), vars(bundle(3)))


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_kill_at_any_point_of_a_save_leaves_a_whole_bundle(tmp_path: Path, asynchronous: bool) -> None:
    def with_an_older_one(n: int) -> tuple[Path, bool]:
        write_bundle(tmp_path / str(n), bundle(2))
        return tmp_path / str(n), asynchronous

    for folder, _ in killed_at_every_touch(save_the_fourth, with_an_older_one):
        newest = newest_bundle(folder, 9, nothing)
        assert newest is not None and newest.name in ("step-00000002", "step-00000004")
        save_the_fourth(folder, True)
        assert [path.name for path in folder.iterdir()] == ["step-00000004"]
        assert damage(folder / "step-00000004") is None


def save_the_fourth(folder: Path, asynchronous: bool) -> None:
    writer = BundleWriter(folder, 1, ())
    if asynchronous:
        writer.save(bundle(4))
        writer.finish()
    else:
        writer._write(bundle(4))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def zero_the_tail(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES: list[Callable[[Path], None]] = [truncate, zero_the_tail, flip_a_bit, Path.unlink]


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_damaged_bundle_is_named_and_the_one_before_is_used(
    tmp_path: Path, harm: Callable[[Path], None], file: str
) -> None:
    before, newest = write_bundle(tmp_path, bundle(2)), write_bundle(tmp_path, bundle(4))
    harm(newest / file)
    log: list[str] = []
    assert newest_bundle(tmp_path, 9, log.append) == before
    assert len(log) == 1 and "step-00000004 is not whole" in log[0] and file in log[0]
    with pytest.raises(UserError, match=file):
        require_whole(newest)


def test_saving_over_a_damaged_bundle_mends_it(tmp_path: Path) -> None:
    flip_a_bit(write_bundle(tmp_path, bundle(2)) / "weights.safetensors")
    assert damage(write_bundle(tmp_path, bundle(2))) is None


def test_a_bundle_from_before_a_setting_was_overridden_gives_way(tmp_path: Path) -> None:
    write_bundle(tmp_path, bundle(2))
    changed = replace(bundle(2), identity={**IDENTITY, "device": "another"})
    assert read_bundle(write_bundle(tmp_path, changed)).identity["device"] == "another"
    assert len(list(tmp_path.glob(".replaced-*"))) == 1


def test_no_fresh_start_while_there_are_bundles(tmp_path: Path) -> None:
    for step in (2, 4):
        truncate(write_bundle(tmp_path, bundle(step)) / "optimizer.pt")
    log: list[str] = []
    with pytest.raises(UserError, match=r"none of 2 bundles can be gone on from.*--fresh"):
        newest_bundle(tmp_path, 9, log.append)
    assert len(log) == 2
    assert newest_bundle(tmp_path, 9, log.append, allow_fresh=True) is None


def test_no_bundle_is_a_fresh_start_and_a_later_one_is_no_beginning(tmp_path: Path) -> None:
    assert newest_bundle(tmp_path / "nowhere", 9, nothing) is None
    write_bundle(tmp_path, bundle(8))
    assert newest_bundle(tmp_path, 4, nothing) is None


def test_a_bundle_that_was_asked_for_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such bundle"):
        require_whole(tmp_path / "step-00000001")


def test_rotation_keeps_the_newest_the_protected_and_those_of_a_longer_run(tmp_path: Path) -> None:
    paths = {step: write_bundle(tmp_path, bundle(step)) for step in (2, 4, 6, 8, 10)}
    (tmp_path / ".staging-of-a-crash").mkdir()
    rotate(tmp_path, 8, 2, (paths[2],))
    assert [step for step, _ in steps_of(tmp_path)] == [2, 6, 8, 10]
    assert not list(tmp_path.glob(".staging-*"))


def test_an_error_in_the_background_surfaces(tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    folder.write_text("in the way")
    for meet in (BundleWriter.finish, lambda writer: writer.save(bundle(4))):
        writer = BundleWriter(folder, 1, ())
        writer.save(bundle(2))
        with pytest.raises(OSError):
            meet(writer)


def test_a_full_disk_is_named_with_numbers_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path, bundle(2))

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sdxl_core.bundle.flush", full)
    with pytest.raises(DiskFullError, match=r"disk full .* need 0\.00 GB, [\d.]+ GB are free"):
        write_bundle(tmp_path, bundle(4))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert damage(tmp_path / "step-00000002") is None


def test_room_is_asked_for_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 2_500_000_000)
    disk.require_room(tmp_path / "not" / "yet", 2_500_000_000, "training")
    with pytest.raises(DiskFullError, match=r"training needs 3\.00 GB .* but 2\.50 GB are free"):
        disk.require_room(tmp_path / "not" / "yet", 3_000_000_000, "training")


def test_each_changed_setting_is_listed() -> None:
    changed = {"training": {"seed": 2, "learning_rate": 2e-4, "adapter": {"rank": 8}}, "inputs": {"latents": "abd"}}
    with pytest.raises(UserError) as refused:
        refuse_changes(IDENTITY, changed, (), "the run")
    for line in (
        "training.seed: 1 -> 2",
        "training.learning_rate: 0.0001 -> 0.0002",
        "training.adapter.rank: 4 -> 8",
        "inputs.latents: 'abc' -> 'abd'",
    ):
        assert line in str(refused.value)
    fixed = "inputs.latents, training.adapter.rank, training.seed cannot change within a run"
    assert fixed in str(refused.value)


def test_safe_settings_can_be_overridden_and_others_stay_refused() -> None:
    faster = {**IDENTITY, "training": {**IDENTITY["training"], "learning_rate": 2e-4}}
    with pytest.raises(UserError, match=r"by --override training\.learning_rate, or"):
        refuse_changes(IDENTITY, faster, (), "the run")
    refuse_changes(IDENTITY, faster, ("training.learning_rate",), "the run")
    wider = {**faster, "training": {**faster["training"], "adapter": {"rank": 8}}}
    with pytest.raises(UserError, match="rank: 4 -> 8") as refused:
        refuse_changes(IDENTITY, wider, ("training.learning_rate",), "the run")
    assert "learning_rate:" not in str(refused.value)


@pytest.mark.parametrize("key", ["training.adapter.rank", "training.adapter", "inputs", "training.seed", "training"])
def test_what_would_break_a_run_cannot_be_overridden(key: str) -> None:
    with pytest.raises(UserError, match=f"--override: {key} cannot change within a run"):
        check_override((key,))


def test_every_overridable_setting_exists() -> None:
    outside = {"sampling", "device", "versions"}
    names = {key.removeprefix("training.") for key in OVERRIDABLE if key.startswith("training.")}
    assert set(OVERRIDABLE) == outside | {f"training.{name}" for name in names}
    settings = TrainingConfig.model_validate({"text_encoders": {}}).model_dump()
    below = {f"{name}.{key}" for name, section in settings.items() if isinstance(section, dict) for key in section}
    assert names <= set(settings) | below


def test_every_overridable_setting_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    assert [key for key in OVERRIDABLE if f"`{key}`" not in text] == []


def test_the_tests_that_the_documentation_names_exist() -> None:
    root = Path(__file__).parents[2]
    written = "".join(path.read_text() for path in (root / "tests").rglob("test_*.py"))
    for page, least in (("reliability.md", 50), ("training/known-bugs.md", 60)):
        named = re.findall(r"`(test_\w+)`", (root / "docs" / page).read_text())
        assert len(named) > least and [name for name in named if f"def {name}(" not in written] == []


def test_nothing_in_a_bundle_is_executed(tmp_path: Path) -> None:
    """A bundle whose optimizer state is a pickle with a payload, correctly listed in its manifest."""
    path = write_bundle(tmp_path / "a", bundle(2))
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    torch.save({"optimizer": Payload(), "scaler": {}}, path / "optimizer.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        read_bundle(path)
    assert not marker.exists()
