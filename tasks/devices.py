"""The devices that stages may compute on: which of them this process may use, and what each is physically.

Nothing here imports torch: a run that only reuses artifacts must not load it to learn that it needs no GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConfigError

ORDER = "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"
VISIBLE = "CUDA_VISIBLE_DEVICES"
CPU_SLOTS = "SDXL_FLOWS_CPU_SLOTS"
_ASK_S = 30


@dataclass(frozen=True)
class Device:
    """One device that can be held."""

    identity: str
    """Names its lock: the same for everybody on the machine, whatever number or name they know it by."""
    shown: str
    """For people: `gpu-0`."""
    token: str | None = None
    """What CUDA_VISIBLE_DEVICES calls it; None for processors, and for a GPU of which only the driver knows."""
    position: int | None = None
    """Among the visible GPUs, as torch counts; None where there is no telling."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver lists it."""

    bus: str
    """Where it sits: the one name that is known from boot on. Empty where the driver's list cannot be read."""
    uuid: str
    """Empty where unknown, as it is to the driver's list until something has used the GPU."""


def visible_devices(
    setting: str, environment: Mapping[str, str] = os.environ, system: Path = Path("/")
) -> tuple[Device, ...]:
    """The devices among which a stage with this `runtime.device` may choose; none where nothing has to be held.

    Without a GPU these are as many places as SDXL_FLOWS_CPU_SLOTS says, and none if it is not set.

    Raises:
        ConfigError: an environment variable says what cannot be.
    """
    kind = setting.partition(":")[0]
    gpus = _visible_gpus(environment, system) if kind != "cpu" else ()
    if gpus:
        return gpus
    if kind == "cuda" and VISIBLE not in environment:  # some drivers show nothing of what they have
        return (Device("gpu-all", "gpu"),)
    return () if kind == "cuda" else _processor_slots(environment)


def _processor_slots(environment: Mapping[str, str]) -> tuple[Device, ...]:
    text = environment.get(CPU_SLOTS, "").strip()
    if not text:
        return ()
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigError.about(
            CPU_SLOTS, expected="a number of stages from 1 on", got=repr(text), fix="Unset it for no limit"
        )
    return tuple(Device(f"cpu-{number}", f"cpu-{number}") for number in range(int(text)))


def _visible_gpus(environment: Mapping[str, str], system: Path) -> tuple[Device, ...]:
    """As CUDA does it: all, or those listed up to the first that it could not make out."""
    present = present_gpus(system)
    listed = environment.get(VISIBLE)
    if listed is None:
        _require_order(environment, len(present))
        return tuple(_device(gpu, index, str(index), index) for index, gpu in enumerate(present))
    tokens = [token.strip() for token in listed.split(",")]
    if any(token.isdigit() for token in tokens):
        _require_order(environment, len(present))
    found: list[Device] = []
    for token in tokens:
        device = _named(token, len(found), present)
        if device is None or device.identity in {other.identity for other in found}:
            break
        found.append(device)
    return tuple(found)


def _require_order(environment: Mapping[str, str], count: int) -> None:
    """An index must mean the same GPU to all of us, also to who names it otherwise."""
    if count > 1 and environment.get(ORDER, BY_BUS) != BY_BUS:
        raise ConfigError.about(
            ORDER, expected=f"{BY_BUS}, or nothing", got=environment[ORDER], fix=f"Unset it, and look at {VISIBLE}"
        )


def _named(token: str, position: int, present: Sequence[Gpu]) -> Device | None:
    """The device that one entry of CUDA_VISIBLE_DEVICES means."""
    if token.isascii() and token.isdigit():
        number = int(token)
        if not present:
            return Device(f"gpu-{number}", f"gpu-{number}", token, position)
        return _device(present[number], number, token, position) if number < len(present) else None
    if token.startswith("MIG-"):
        return Device(_file_name(token), token, token, position)
    if not token.startswith("GPU-"):
        return None
    if not present:
        return Device(_file_name(token), token, token, position)
    index = _index_of(token, present)
    return None if index is None else _device(present[index], index, token, position)


def _index_of(uuid: str, present: Sequence[Gpu]) -> int | None:
    """The GPU whose UUID begins so.

    Raises:
        ConfigError: there are GPUs whose UUID is not to be found out.
    """
    if not all(gpu.uuid for gpu in present):
        asked = _ask_driver()
        present = [Gpu(gpu.bus, gpu.uuid or asked.get(gpu.bus, "")) for gpu in present]
    matching = [index for index, gpu in enumerate(present) if gpu.uuid.lower().startswith(uuid.lower())]
    if not matching and not all(gpu.uuid for gpu in present):
        raise ConfigError(
            f"{VISIBLE}: cannot tell which GPU {uuid} is, since nvidia-smi is not there to say; "
            f"name it by its index ({', '.join(map(str, range(len(present))))}, by bus)"
        )
    return matching[0] if len(matching) == 1 else None


def _device(gpu: Gpu, index: int, token: str, position: int) -> Device:
    return Device(_file_name(f"gpu-{gpu.bus or index}"), f"gpu-{index}", token, position)


def present_gpus(system: Path = Path("/")) -> list[Gpu]:
    """Those whose device file is here (a container may have a few of the machine's), in the order of the bus."""
    found = []
    for file in sorted(system.glob("proc/driver/nvidia/gpus/*/information")):
        pairs = (line.partition(":")[::2] for line in file.read_text(errors="replace").splitlines())
        facts = {name.strip(): value.strip() for name, value in pairs}
        if (system / "dev" / f"nvidia{facts.get('Device Minor', '')}").exists():
            uuid = facts.get("GPU UUID", "")
            found.append(Gpu(file.parent.name.lower(), "" if "?" in uuid else uuid))
    if found:
        return found
    files = [*(system / "dev").glob("nvidia[0-9]*"), *(system / "dev").glob("dxg")]  # dxg: Linux below Windows
    return [Gpu("", "") for _ in files]


def _ask_driver() -> dict[str, str]:
    """UUID by bus; asking wakes the GPUs, and so is done only where the driver's list does not say."""
    line = ["nvidia-smi", "--query-gpu=pci.bus_id,uuid", "--format=csv,noheader"]
    try:
        said = subprocess.run(line, capture_output=True, text=True, timeout=_ASK_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = (row.split(",") for row in said.splitlines() if row.count(",") == 1)
    return {bus.strip().lower()[-12:]: uuid.strip() for bus, uuid in rows}


def _file_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
