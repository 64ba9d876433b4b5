"""`sdxl-flows slots`: who computes on this machine's devices, and who waits for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows import console
from flows.cli_artifacts import Store

if TYPE_CHECKING:
    from collections.abc import Mapping


def slots(store: Store = None) -> None:
    """Show the devices of this machine: who holds each since when, and who waits for which. Takes none.

    Example: `sdxl-flows slots`
    """
    from tasks.devices import visible_devices
    from tasks.slot_queue import SlotQueue, in_words
    from tasks.slots import slots_folder
    from tasks.store import store_root

    found = SlotQueue(slots_folder(store_root(store))).look()
    shown = {device.identity: device.shown for device in visible_devices("auto")}
    devices = {**shown, **{identity: identity for identity in found.holders if identity not in shown}}
    rows = [
        (
            name,
            _state(in_words(found.holders[identity]), found.holders[identity]) if identity in found.holders else "free",
        )
        for identity, name in devices.items()
    ]
    for ticket in found.waiting:
        asked = ", ".join(shown.get(device, str(device)) for device in ticket.words.get("devices", []))
        rows.append(
            ("waiting", f"{_state(in_words(ticket.words), ticket.words)}, {ticket.words.get('count')} of {asked}")
        )
    console.table(rows or [("", "no GPU, and SDXL_FLOWS_CPU_SLOTS is not set: nothing is held, and nobody waits")])


def _state(who: str, signed: Mapping[str, Any]) -> str:
    try:
        since = datetime.fromisoformat(str(signed.get("since")))
    except ValueError:
        return who
    minutes = (datetime.now(UTC) - since).total_seconds() / 60
    return f"{who}, since {since.isoformat(sep=' ', timespec='seconds')} ({minutes:.0f} min)"
