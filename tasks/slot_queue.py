"""Who may compute on which device, and who waits: lock files in one folder, on any machine and without any server.

    <device>.lock    held while somebody computes there; says who
    tickets/<n>-*    held by everyone who waits, in the order of arrival; says for what
    queue.lock       held for the moment of a look at all of these

Tickets of requests that could take the same device are served in their order. A request takes all its devices or none,
so nobody holds one while waiting for another, and a request for many is not overtaken for ever by those for one.
Whoever dies leaves locks that are free and a ticket that nobody holds, which the next who looks clears away.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.locks import held, held_if_free, open_lock, process_in_words, sign, signature, try_lock

FIRST_POLL_S, LAST_POLL_S = 0.05, 1.0


@dataclass(frozen=True)
class Request:
    """What is asked for: `count` of the `devices`, by identity."""

    label: str
    """For people: `images/base`."""
    run: str
    """Name of the run, or empty."""
    devices: tuple[str, ...]
    count: int = 1

    def words(self) -> dict[str, Any]:
        """What the lock files say."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        asked = {"devices": list(self.devices), "count": self.count}
        return {"label": self.label, "run": self.run, "since": since, **asked}


@dataclass(frozen=True)
class Ticket:
    """Somebody who waits."""

    number: int
    path: Path
    words: Mapping[str, Any]


@dataclass(frozen=True)
class Looked:
    """The state of a folder of slots at one moment."""

    holders: Mapping[str, dict[str, Any]]
    """By device, of those that are held."""
    waiting: tuple[Ticket, ...]


class SlotQueue:
    """The locks of the devices in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def taken(self, request: Request, waiting: Callable[[str], None]) -> Iterator[dict[str, int]]:
        """Hold as many of the devices as are asked for; yields the locks' descriptors by device.

        A child that inherits the descriptors keeps the devices held until it ends too. `waiting` is called at every
        look that finds too few of them free, with who stands in the way.
        """
        assert 0 < request.count <= len(request.devices), request
        with ExitStack() as stack:
            descriptors = self._wait(request, waiting)
            for descriptor in descriptors.values():
                stack.callback(os.close, descriptor)
            yield descriptors

    def look(self) -> Looked:
        """Who holds what, and who waits; holds up others for the moment that it takes."""
        if not self._folder.is_dir():
            return Looked({}, ())
        with self._alone():
            locks = [path for path in sorted(self._folder.glob("*.lock")) if path != self._mutex]
            holders = {path.stem: signature(path) for path in locks if not _is_free(path)}
            return Looked(holders, tuple(self._tickets()))

    def _wait(self, request: Request, waiting: Callable[[str], None]) -> dict[str, int]:
        number, path, ticket = self._draw_ticket(request)
        poll_s = FIRST_POLL_S
        try:
            while True:
                with self._alone():
                    in_the_way = self._ahead(number, request)
                    found = {} if in_the_way else self._take(request)
                    if found:
                        path.unlink()
                        return found
                    in_the_way = in_the_way or self._holders(request)
                waiting("; ".join(in_the_way))
                time.sleep(poll_s)
                poll_s = min(2 * poll_s, LAST_POLL_S)
        finally:
            path.unlink(missing_ok=True)
            os.close(ticket)

    def _draw_ticket(self, request: Request) -> tuple[int, Path, int]:
        with self._alone():
            number = max((other.number for other in self._tickets()), default=0) + 1
            path = self._folder / "tickets" / f"{number}-{uuid.uuid4().hex}"
            descriptor = open_lock(path)
            mine = try_lock(descriptor)
            assert mine, f"{path} is held by another"
            sign(descriptor, request.words())
        return number, path, descriptor

    def _tickets(self) -> list[Ticket]:
        """Of those who still wait, in their order; those of the dead are cleared away."""
        found = []
        for path in (self._folder / "tickets").glob("*-*"):
            if _is_free(path):
                path.unlink(missing_ok=True)
            else:
                found.append(Ticket(int(path.name.partition("-")[0]), path, signature(path)))
        return sorted(found, key=lambda ticket: ticket.number)

    def _ahead(self, number: int, request: Request) -> list[str]:
        wanted = set(request.devices)
        return [
            f"before it comes {in_words(ticket.words)}"
            for ticket in self._tickets()
            if ticket.number < number and not wanted.isdisjoint(ticket.words.get("devices", wanted))
        ]

    def _take(self, request: Request) -> dict[str, int]:
        """All that are asked for, or none."""
        found: dict[str, int] = {}
        for device in request.devices:
            descriptor = open_lock(self._lock(device))
            if len(found) < request.count and try_lock(descriptor):
                found[device] = descriptor
            else:
                os.close(descriptor)
        if len(found) < request.count:
            for descriptor in found.values():
                os.close(descriptor)
            return {}
        for descriptor in found.values():
            sign(descriptor, request.words())
        return found

    def _holders(self, request: Request) -> list[str]:
        locks = [self._lock(device) for device in request.devices]
        holders = [in_words(signature(path)) for path in locks if not _is_free(path)]
        return [f"held by {holder}" for holder in dict.fromkeys(holders)]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with held(self._mutex, lambda holder: None):
            yield

    @property
    def _mutex(self) -> Path:
        return self._folder / "queue.lock"

    def _lock(self, device: str) -> Path:
        return self._folder / f"{device}.lock"


def in_words(signed: Mapping[str, Any]) -> str:
    """`process 123 on host (images/base of run dog)`"""
    label, run = str(signed.get("label", "")), str(signed.get("run", ""))
    doing = f"{label} of run {run}" if label and run else label
    return process_in_words(signed) + (f" ({doing})" if doing else "")


def _is_free(path: Path) -> bool:
    with held_if_free(path) as free:
        return free
