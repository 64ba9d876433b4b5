"""Output for people: results on standard output; what goes on while working is logged to standard error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def out(text: str) -> None:
    print(text, flush=True)


def table(rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest entry; the last is free."""
    lines = [tuple(row) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)] if lines else []
    for line in lines:
        out("  ".join([*(entry.ljust(width) for entry, width in zip(line, widths, strict=False)), line[-1]]))


def size(count: float) -> str:
    """Bytes in words: `1.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
