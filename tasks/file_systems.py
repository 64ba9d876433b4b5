"""What kind of file system a folder lies on: a disk of this machine, or one that others write to over a network."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from tasks.errors import StoreError

REMOTE = "SDXL_FLOWS_STORE_REMOTE"
"""Environment variable: not empty where the store is shared in a way that its file system does not show."""
_MOUNTS = Path("/proc/mounts")
_NETWORK = frozenset(
    "nfs nfs4 cifs smb3 smbfs 9p virtiofs ceph lustre gpfs beegfs glusterfs wekafs orangefs afs coda".split()  # noqa: SIM905
)
_ESCAPE = re.compile(r"\\([0-7]{3})")


def is_remote(folder: Path) -> bool:
    """Whether a folder, which need not exist yet, lies on a network file system, as far as the kernel tells.

    Everything mounted by FUSE counts, since buckets are mounted so.
    """
    if os.environ.get(REMOTE):
        return True
    kind = file_system(folder)
    return kind in _NETWORK or kind.split(".")[0] == "fuse"


def file_system(folder: Path) -> str:
    """Its type, such as `ext4` or `nfs4`; empty where the kernel does not tell."""
    try:
        table = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return ""
    place, deepest, kind = folder.resolve(), -1, ""
    for line in table.splitlines():
        _, point, named, *_ = line.split(" ")
        mounted = Path(_ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), point))
        # of two on one point, the later hides the earlier
        if place.is_relative_to(mounted) and len(mounted.parts) >= deepest:
            deepest, kind = len(mounted.parts), named
    return kind


def own_memo(store_root: Path) -> Path:
    """This machine's own memo of digests for a store that others use too: SQLite's log cannot be shared with them.

    Raises:
        StoreError: its folder cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sdxl-flows"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{cache}: cannot make the folder: {error.strerror}; set XDG_CACHE_HOME") from None
    return cache / f"digests-{hashlib.sha256(os.fsencode(store_root)).hexdigest()[:16]}.sqlite"
