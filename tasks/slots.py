"""Devices that a stage holds while it computes: never two stages on one, whoever started them."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sdxl_core.errors import UserError
from tasks.devices import BY_BUS, ORDER, VISIBLE, Device, visible_devices
from tasks.slot_queue import Request, SlotQueue

_LOG = logging.getLogger("sdxl_flows")
FOLDER = "SDXL_FLOWS_SLOTS"
SAY_EVERY_S = 60.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_used: set[str] = set()
"""Devices that this process has computed on, which it keeps some memory of."""


@dataclass(frozen=True)
class Slot:
    """What is held, and how to say so to who computes there."""

    device: str
    """For computing in this process: the `runtime.device` asked for, with the GPU's number where it is known."""
    devices: tuple[Device, ...] = ()
    descriptors: tuple[int, ...] = ()
    """Of the locks; a child that computes must inherit them."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What makes a child see these GPUs and no others; empty where it holds none, or nobody knows which."""


@dataclass(frozen=True)
class Wish:
    """What somebody needs to compute."""

    label: str
    """For people: `images/base`."""
    device: str
    """The `runtime.device`."""
    count: int = 1
    """GPUs; without a GPU it is one place, however many processes share it."""
    run: str = ""
    """Name of the run, for those who wait."""


def slots_folder(store_root: Path) -> Path:
    """Where the machine's locks are: what SDXL_FLOWS_SLOTS names, or a folder of the machine's own in the store.

    The machine is known by its boot, which its containers have in common and machines of the same name have not.
    """
    if named := os.environ.get(FOLDER):
        return Path(named).expanduser().absolute()
    try:
        machine = _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        machine = socket.gethostname()
    return store_root / "locks" / "devices" / re.sub(r"[^A-Za-z0-9.-]", "-", machine)


def require_devices(wish: Wish) -> None:
    """Raises UserError where fewer GPUs are visible than are wished for, so that waiting would be for ever."""
    _choose(wish, None)


@contextmanager
def device_slot(
    store_root: Path, wish: Wish, waiting: Callable[[str], None], only: Sequence[Device] | None = None
) -> Iterator[Slot]:
    """Hold as many devices as are wished for, all of them at once; waits for them in the order of arrival.

    The locks are files, so they work with and without a Prefect server, and are free the moment the last process that
    holds them is gone. `waiting` is told what stands in the way, at once and every minute. `only` are the devices to
    choose from, where that has been decided.

    Raises:
        UserError: there are not so many.
    """
    devices, count = _choose(wish, only)
    if not devices:
        yield Slot(wish.device)
        return
    by_identity = {device.identity: device for device in sorted(devices, key=lambda d: d.identity not in _used)}
    request = Request(wish.label, wish.run, tuple(by_identity), count)
    report = _reporter(wish.label, _wanted(devices, count), waiting)
    with SlotQueue(slots_folder(store_root)).taken(request, report) as descriptors:
        _used.update(descriptors)
        held = tuple(by_identity[identity] for identity in descriptors)
        yield _slot(wish.device, held, tuple(descriptors.values()))


def _choose(wish: Wish, only: Sequence[Device] | None) -> tuple[Sequence[Device], int]:
    """The devices to choose from, and how many of them to hold."""
    devices = visible_devices(wish.device) if only is None else only
    on_gpus = wish.device == "cuda" or any(device.token is not None for device in devices)
    count = wish.count if on_gpus else 1
    if on_gpus and count > len(devices):
        listed = f" ({', '.join(device.shown for device in devices)})" if devices else ""
        fix = f"Lower training.processes, or let {VISIBLE} name more" if count > 1 else f"Look at {VISIBLE}"
        raise UserError.about(wish.label, expected=_gpus(count), got=f"{len(devices)} visible here{listed}", fix=fix)
    return devices, count


def _slot(setting: str, held: tuple[Device, ...], descriptors: tuple[int, ...]) -> Slot:
    tokens = [device.token for device in held if device.token is not None]
    if not tokens:
        return Slot(setting, held, descriptors)
    # as `visible_devices` counts; it must stand here before CUDA looks, which is when something first computes
    os.environ.setdefault(ORDER, BY_BUS)
    kind = setting.partition(":")[0]
    return Slot(f"{kind}:{held[0].position}", held, descriptors, {VISIBLE: ",".join(tokens), ORDER: BY_BUS})


def _reporter(label: str, wanted: str, tell: Callable[[str], None]) -> Callable[[str], None]:
    """Says what it is told at once and then every minute, to the log and to `tell`."""
    began = time.monotonic()
    last: list[float] = []

    def report(in_the_way: str) -> None:
        now = time.monotonic()
        if last and now - last[0] < SAY_EVERY_S:
            return
        for_long = f" for {(now - began) / 60:.0f} min" if last else ""
        last[:] = [now]
        text = f"waiting{for_long} for {wanted}; {in_the_way}"
        _LOG.warning("%s: %s", label, text)
        tell(text)

    return report


def _wanted(devices: Sequence[Device], count: int) -> str:
    """`2 of gpu-0, gpu-1, gpu-2`"""
    listed = ", ".join(device.shown for device in devices)
    return listed if len(devices) == 1 else f"{count} of {listed}"


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"
