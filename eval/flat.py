"""Nested settings for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def flat(nested: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested mappings as lines of dotted name and text."""
    lines: list[tuple[str, str]] = []
    for key, value in nested.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            lines += flat(value, f"{name}.")
        else:
            lines.append((name, value if isinstance(value, str) else json.dumps(value, sort_keys=True)))
    return lines
