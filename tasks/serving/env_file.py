"""One line of ours in a folder's `.env`, by which Prefect's own commands there find the server that is served.

Prefect reads `.env` of the working folder; variables of the environment go before it. The line is the file's first, so
that a PREFECT_API_URL of the user's own in it wins. It never holds a secret.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

NAME = "PREFECT_API_URL"
_LINE = re.compile(rf"{NAME}=(\S+)  # by sdxl-flows serve, process (\d+) on (\S+)\n?".encode())


def write_line(folder: Path, url: str) -> bool:
    """Whether the line counts: a setting of the user's own in the file goes before it."""
    path = _place(folder)
    others = _others(path)
    line = f"{NAME}={url}  # by sdxl-flows serve, process {os.getpid()} on {socket.gethostname()}\n"
    _write(path, line.encode() + others)
    return re.search(rf"^\s*(export\s+)?{NAME}\s*=".encode(), others, re.MULTILINE) is None


def remove_line(folder: Path) -> None:
    """Take our line out, and a file that has nothing else in it away."""
    path = _place(folder)
    if not path.is_file() or _ours(path) is None:
        return
    if others := _others(path):
        _write(path, others)
    else:
        path.unlink()


def remove_dead_line(folder: Path) -> str | None:
    """Take our line out if it was left by a process of this machine that is gone; returns the address it had."""
    path = _place(folder)
    found = _ours(path) if path.is_file() else None
    if found is None:
        return None
    url, pid, host = (part.decode() for part in found.groups())
    if host != socket.gethostname() or _serves(int(pid)):
        return None
    remove_line(folder)
    return url


def _serves(pid: int) -> bool:
    """Whether the process is one that serves; after a restart of the machine its number may be another's."""
    import psutil

    try:
        return "serve" in psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _place(folder: Path) -> Path:
    return (folder / ".env").resolve()


def _ours(path: Path) -> re.Match[bytes] | None:
    return next((found for line in path.read_bytes().splitlines(True) if (found := _LINE.fullmatch(line))), None)


def _others(path: Path) -> bytes:
    lines = path.read_bytes().splitlines(True) if path.is_file() else []
    return b"".join(line for line in lines if not _LINE.fullmatch(line))


def _write(path: Path, content: bytes) -> None:
    staging = path.with_name(f".env.{os.getpid()}")
    staging.write_bytes(content)
    if path.exists():
        staging.chmod(path.stat().st_mode & 0o777)
    os.replace(staging, path)
