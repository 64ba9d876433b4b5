"""Keys and small values of the fine-grained cache that scorers share."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, MutableMapping
from typing import Any


def cell_key(kind: str, **parts: Any) -> str:
    """Digest of everything that decides a cell's bytes; `parts` must be JSON."""
    text = json.dumps({"kind": kind, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def remembered(cells: MutableMapping[str, bytes], key: str, compute: Callable[[], bytes]) -> bytes:
    """The cell's bytes, computed now if it is not there yet."""
    value = cells.get(key)
    if value is None:
        value = cells[key] = compute()
    return value


def number_bytes(value: float) -> bytes:
    """One float64."""
    return struct.pack("<d", value)


def number(cell: bytes) -> float:
    """What `number_bytes` wrote."""
    (value,) = struct.unpack("<d", cell)
    return float(value)
