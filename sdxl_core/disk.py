"""Room on the disk, and files: what they hold, and that they are surely on it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdxl_core.errors import UserError

GB = 1e9
_FULL = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk quota used up", errno.EFBIG: "file size limit reached"}


class DiskFullError(UserError):
    """There is no room for what has to be written."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the operating system put a file, or a folder's list of names, on the disk before anything else happens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """All of the file or, after a crash, none."""
    staging = path.with_name(f".{path.name}.tmp")
    staging.write_bytes(data)
    flush(staging)
    os.replace(staging, path)
    flush(path.parent)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder, which need not exist yet."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free


def require_writable(folder: Path) -> None:
    """Make the folder. Raises UserError where that or writing into it is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot write there: {error.strerror}") from None


def refuse_existing(place: Path) -> None:
    """Raises UserError where there is something but an empty folder: it may be somebody's only copy."""
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise UserError.about("--out", expected="a place where nothing is yet", got=place)


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises DiskFullError, with numbers, if the disk has no room for `what`."""
    if (free := free_bytes(folder)) < needed_bytes:
        raise DiskFullError(
            f"{what} needs {needed_bytes / GB:.2f} GB on the disk of {folder}, but {free / GB:.2f} GB are free; "
            "make room (`sdxl-flows artifacts gc` removes what no recent run needs), or use another disk"
        )


@contextmanager
def naming_a_full_disk(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Turn an error from writing into a full disk, if that is what it comes from, into DiskFullError."""
    try:
        yield
    except Exception as error:
        if (reason := _full(error)) is None and free_bytes(folder) >= needed_bytes:
            raise
        raise DiskFullError(
            f"{reason or _FULL[errno.ENOSPC]} while writing to {folder}: need {needed_bytes / GB:.2f} GB, "
            f"{free_bytes(folder) / GB:.2f} GB are free; what was saved before is intact. Make room and run again"
        ) from error


def _full(error: BaseException | None) -> str | None:
    """The reason, where an error or what caused it is the operating system's for no room left.

    Libraries written in other languages only quote it in their message.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return _FULL[error.errno]
        quoted = [reason for code, reason in _FULL.items() if f"os error {code})" in str(error)]
        if quoted:
            return quoted[0]
        error = error.__cause__ or error.__context__
    return None
