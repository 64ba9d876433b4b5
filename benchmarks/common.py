"""What every benchmark says beside its figures, and where they go: sections of docs/benchmarks.md."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
LIBRARIES = ("torch", "diffusers", "peft")


def machine(device: torch.device) -> str:
    """The processor or GPU, as a table's caption has it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def processor() -> str:
    """Its name as Linux tells it; elsewhere the architecture."""
    described = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", described.read_text()) if described.is_file() else None
    return re.sub(r"\s+", " ", named[1]) if named else platform.machine()


def versions(libraries: Sequence[str] = LIBRARIES) -> str:
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in libraries)])


def provenance(command: str, device: torch.device) -> str:
    """The sentence above a table: command, machine, versions and date."""
    return f"`{command}`: {machine(device)}, {versions()}, {datetime.date.today().isoformat()}."


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """In Markdown; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_section(name: str, text: str, page: Path = DOCS) -> None:
    """Put `text` between the page's markers of that name; where there are none, they are added at its end."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    section = f"{begin}\n{text.strip()}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    found, times = pattern.subn(lambda _: section, before)
    page.write_text(found if times else f"{before.rstrip()}\n\n{section}\n", encoding="utf-8")
