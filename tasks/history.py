"""What happened to a model: events, appended and never changed; in a folder, one line of JSON for each."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sdxl_core.disk import flush
from tasks.manifest import Frozen

What = Literal["judged", "unchanged", "promoted", "rolled back", "announced", "pushed"]
MOVES: tuple[What, ...] = ("promoted", "rolled back")
"""What changes what is in production."""


class Event(Frozen):
    """One line."""

    at: str
    what: What
    version: int | None
    before: int | None = None
    """Of a move: what was in production before."""
    asked: str | None = None
    reason: str = ""
    by: str = ""


def read_history(file: Path) -> list[Event]:
    """Oldest first. A line that was not written to its end counts as none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return list(_events(lines))


def append_event(file: Path, what: What, version: int | None, **more: str | int | None) -> None:
    """Write a line, on the disk when this returns."""
    event = happened(what, version, **more)
    torn = file.is_file() and file.stat().st_size > 0 and file.read_bytes()[-1:] != b"\n"
    with file.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if torn else "") + event.model_dump_json() + "\n")
    flush(file)


def happened(what: What, version: int | None, **more: str | int | None) -> Event:
    """An event of this moment, by whoever runs this."""
    return Event.model_validate({"at": now(), "what": what, "version": version, "by": _who(), **more})


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _events(lines: list[str]) -> Iterator[Event]:
    for line in lines:
        try:
            yield Event.model_validate(json.loads(line))
        except (ValueError, ValidationError):
            continue


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container's user without a name
        return f"{os.getuid()}@{socket.gethostname()}"
