"""A folder that is kept equal to what lies below a URL, at the price of one listing where nothing has changed there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sdxl_core.ahead import in_order
from sdxl_core.data.remote import Listing, Remote, list_objects, unreachable
from sdxl_core.disk import flush, naming_a_full_disk, require_room, write_durably
from sdxl_core.errors import UserError

_INDEX, _FILES, _INCOMING = "index.jsonl", "files", "incoming"
_READERS = 16
"""They wait for the network."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class _Copy:
    """A line of the index: what was read, and as what it lies here."""

    name: str
    stamp: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Mirror:
    path: Path
    """The folder; or the file, where the URL is of one."""
    kept: int
    read: int
    removed: int


def mirror(url: str, home: Path, setting: str, progress: Progress) -> Mirror:
    """Make `home/files/NAME` equal to what lies below `url`, whose last part NAME is. One process at a time.

    An object is read again where its version, or this copy of it, is not the one that was read before. An interrupted
    mirroring goes on with what is missing; no file is ever there in part.

    Raises:
        UserError: as `list_objects`; or an object changed while it was read, or cannot be read. Others stay read.
        DiskFullError: there is no room for what is to be read.
    """
    listing = list_objects(url, setting)
    name = re.sub(r"[^\w.-]+", "-", url.rstrip("/").rpartition("/")[2]).strip(".-") or "objects"
    folder = home / _FILES if listing.is_file else home / _FILES / name
    folder.mkdir(parents=True, exist_ok=True)
    copies = {copy.name: copy for copy in _read_index(home)}
    removed = _remove_all_but(listing.objects, folder)
    stale = {each: there for each, there in listing.objects.items() if not _is_current(copies.get(each), there, folder)}
    require_room(home, sum(max(0, there.bytes) for there in stale.values()), f"the mirror of {url}")
    try:
        for copy in _read(listing, stale, folder, home, progress):
            copies[copy.name] = copy
    except UserError:
        raise
    except Exception as error:
        raise unreachable(url, setting, error) from error
    _write_index(home, [copies[each] for each in listing.objects])
    path = folder / next(iter(listing.objects)) if listing.is_file else folder
    return Mirror(path, len(listing.objects) - len(stale), len(stale), removed)


def _is_current(copy: _Copy | None, there: Remote, folder: Path) -> bool:
    if copy is None or not there.stamp or copy.stamp != there.stamp:
        return False
    try:
        here = (folder / copy.name).lstat()
    except OSError:
        return False
    return stat.S_ISREG(here.st_mode) and (here.st_size, here.st_mtime_ns) == (copy.bytes, copy.mtime_ns)


def _read(
    listing: Listing, stale: Mapping[str, Remote], folder: Path, home: Path, progress: Progress
) -> Iterator[_Copy]:
    """Copies of what is stale, one after the other; each is in the index before it is told."""
    incoming = home / _INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    begun, read_bytes = time.monotonic(), 0

    def fetch(named: tuple[str, Remote]) -> _Copy:
        return _fetch(listing, *named, folder, incoming)

    with (home / _INDEX).open("a", encoding="utf-8") as index:
        for done, copy in enumerate(in_order(fetch, stale.items(), workers=_READERS), start=1):
            index.write(_line(copy))
            index.flush()
            read_bytes += copy.bytes
            rate = read_bytes / max(time.monotonic() - begun, 1e-3)
            progress(done, len(stale), f"{read_bytes / 1e6:.0f} MB · {rate / 1e6:.3g} MB/s")
            yield copy


def _fetch(listing: Listing, name: str, there: Remote, folder: Path, incoming: Path) -> _Copy:
    arriving = incoming / hashlib.sha256(name.encode()).hexdigest()
    with naming_a_full_disk(incoming, max(0, there.bytes)):
        listing.system.get_file(there.key, str(arriving))
        size = arriving.stat().st_size
        if there.bytes not in (-1, size):
            expected = f"{there.bytes} bytes as it was listed"
            raise UserError.about(name, expected=expected, got=size, fix="It changed meanwhile: run again")
        flush(arriving)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(arriving, target)
    return _Copy(name, there.stamp, size, target.stat().st_mtime_ns)


def _remove_all_but(wanted: Mapping[str, Remote], folder: Path) -> int:
    """Remove files that are gone there, folders that this leaves empty, and what is neither. Returns their number."""
    removed = 0
    for parent, inner, plain in os.walk(folder, topdown=False):
        here = Path(parent)
        links = [name for name in inner if (here / name).is_symlink()]
        for path in (here / name for name in (*plain, *links)):
            if path.is_symlink() or path.relative_to(folder).as_posix() not in wanted:
                path.unlink()
                removed += 1
        if here != folder and not any(here.iterdir()):
            here.rmdir()
    return removed


def _read_index(home: Path) -> Iterator[_Copy]:
    """Later lines replace earlier ones; one that was not finished, or is nobody's, counts as none."""
    try:
        lines = (home / _INDEX).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield _Copy(**json.loads(line))
        except (ValueError, TypeError):
            continue


def _write_index(home: Path, copies: list[_Copy]) -> None:
    text = "".join(map(_line, copies)).encode()
    if (home / _INDEX).read_bytes() != text:
        write_durably(home / _INDEX, text)


def _line(copy: _Copy) -> str:
    return json.dumps(asdict(copy)) + "\n"
