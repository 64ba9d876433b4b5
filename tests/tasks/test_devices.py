"""Which devices there are, and that one GPU has one identity under all its names. The system here is a made-up one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks.devices import visible_devices
from tasks.errors import ConfigError

UUIDS = ("GPU-8932f937-0000-4000-8000-000000000000", "GPU-8955aaaa-0000-4000-8000-000000000001", "GPU-0c-2")
BUSES = ("0000:19:00.0", "0000:3B:00.0", "0001:01:00.0")
NO_GPU = Path("/nowhere")


def write_gpu(system: Path, bus: str, uuid: str, minor: int, device_file: bool = True) -> None:
    folder = system / "proc" / "driver" / "nvidia" / "gpus" / bus
    folder.mkdir(parents=True)
    lines = ["Model: \t\t NVIDIA H100", f"GPU UUID: \t {uuid}", f"Bus Location: \t {bus}", f"Device Minor: \t {minor}"]
    (folder / "information").write_text("\n".join(lines) + "\n")
    (system / "dev").mkdir(exist_ok=True)
    if device_file:
        (system / "dev" / f"nvidia{minor}").touch()


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """The bus's order is not that of the device files."""
    for bus, uuid, minor in zip(BUSES, UUIDS, (2, 0, 1), strict=True):
        write_gpu(tmp_path, bus, uuid, minor)
    return tmp_path


def found(system: Path, visible: str | None = None, setting: str = "auto", **environment: str) -> list[tuple[str, int]]:
    given: Mapping[str, str] = environment if visible is None else {"CUDA_VISIBLE_DEVICES": visible, **environment}
    devices = visible_devices(setting, given, system)
    assert [device.position for device in devices] in (list(range(len(devices))), [None] * len(devices))
    return [(device.identity, device.position or 0) for device in devices]


def test_an_index_and_a_uuid_mean_one_device(three: Path) -> None:
    everything = found(three)
    assert [identity for identity, _ in everything] == ["gpu-0000-19-00-0", "gpu-0000-3b-00-0", "gpu-0001-01-00-0"]
    assert found(three, "1") == found(three, UUIDS[1]) == found(three, "GPU-8955") == [("gpu-0000-3b-00-0", 0)]
    assert found(three, f"2, {UUIDS[0]}") == [("gpu-0001-01-00-0", 0), ("gpu-0000-19-00-0", 1)]


@pytest.mark.parametrize("visible", ["", "-1", "none", "7", "GPU-ffff", "GPU-89", "-1,0"])
def test_what_cuda_cannot_make_out_is_no_device(visible: str, three: Path) -> None:
    assert found(three, visible) == []


@pytest.mark.parametrize("visible", ["1,-1,0", "1,9,0", "1,1,0", f"1,{UUIDS[1]}"])
def test_the_list_ends_at_the_first_that_cannot_be_made_out(visible: str, three: Path) -> None:
    assert found(three, visible) == [("gpu-0000-3b-00-0", 0)]


def test_a_container_numbers_what_it_was_given(tmp_path: Path) -> None:
    """The driver lists the machine's GPUs; the device files are the container's."""
    for number, (bus, uuid) in enumerate(zip(BUSES, UUIDS, strict=True)):
        write_gpu(tmp_path, bus, uuid, number, device_file=number == 1)
    assert found(tmp_path) == found(tmp_path, "0") == [("gpu-0000-3b-00-0", 0)]
    assert found(tmp_path, "1") == []


def test_a_gpu_nobody_has_used_yet_is_asked_for_its_uuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the driver lists it with question marks, and lock files by UUID would change their names."""
    for number, bus in enumerate(BUSES):
        write_gpu(tmp_path, bus, "GPU-????????-????-????-????-????????????", number)
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    rows = "\n".join(f"0000{bus.upper()}, {uuid}" for bus, uuid in zip(BUSES, UUIDS, strict=True))
    tool.write_text(f"#!/bin/sh\ncat <<END\n{rows}\nEND\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/bin:/usr/bin")
    assert found(tmp_path, UUIDS[1]) == found(tmp_path, "1") == [("gpu-0000-3b-00-0", 0)]
    tool.unlink()
    with pytest.raises(ConfigError, match=r"cannot tell which GPU GPU-8955.* nvidia-smi is not there.*0, 1, 2"):
        found(tmp_path, UUIDS[1])


def test_without_the_drivers_list_the_number_is_the_identity(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for number in range(2):
        (tmp_path / "dev" / f"nvidia{number}").touch()
    assert found(tmp_path) == [("gpu-0", 0), ("gpu-1", 1)]
    assert found(tmp_path, "1") == [("gpu-1", 0)]
    assert found(NO_GPU, "3,2") == [("gpu-3", 0), ("gpu-2", 1)], "the variable is taken at its word"
    assert found(NO_GPU, "MIG-4c56-1,MIG-4c56-2") == [("mig-4c56-1", 0), ("mig-4c56-2", 1)]


def test_indices_by_another_order_are_refused(three: Path) -> None:
    with pytest.raises(UserError, match="CUDA_DEVICE_ORDER: expected PCI_BUS_ID, or nothing, got FASTEST_FIRST"):
        found(three, "1", CUDA_DEVICE_ORDER="FASTEST_FIRST")
    assert len(found(three, UUIDS[0], CUDA_DEVICE_ORDER="FASTEST_FIRST")) == 1
    assert len(found(three, "1", CUDA_DEVICE_ORDER="PCI_BUS_ID")) == 1


def test_processors_are_counted_only_where_somebody_says_how_many(three: Path) -> None:
    places = [("cpu-0", 0), ("cpu-1", 0)]
    assert found(NO_GPU) == found(three, setting="cpu") == []
    assert found(NO_GPU, SDXL_FLOWS_CPU_SLOTS="2") == found(three, "", SDXL_FLOWS_CPU_SLOTS="2") == places
    assert found(three, setting="cpu", SDXL_FLOWS_CPU_SLOTS="2") == places
    assert len(found(three, SDXL_FLOWS_CPU_SLOTS="2")) == 3, "the GPUs"
    for wrong in ("0", "two", "-1", "1.5"):
        with pytest.raises(ConfigError, match="SDXL_FLOWS_CPU_SLOTS: expected a number"):
            found(NO_GPU, SDXL_FLOWS_CPU_SLOTS=wrong)


def test_cuda_is_believed_where_the_driver_shows_nothing() -> None:
    assert found(NO_GPU, setting="cuda") == [("gpu-all", 0)]
    assert found(NO_GPU, "", setting="cuda", SDXL_FLOWS_CPU_SLOTS="2") == []
