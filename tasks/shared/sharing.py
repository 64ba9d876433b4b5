"""What a store does to share its artifacts: find them, bring them here, send them, and make room for others."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from tasks.locks import held, open_lock
from tasks.manifest import Manifest, Ref
from tasks.shared.copies import Copies, manifest_name, parsed, readable
from tasks.shared.files import Torn
from tasks.shared.leases import building, is_leased, leased
from tasks.shared.memo import Memo
from tasks.shared.objects import Objects, open_objects

_LOG = logging.getLogger("sdxl_flows.store")
_SEEN_FOR_S = 86_400
"""Nothing that was used within it is collected as garbage."""
_in_use: dict[Path, int] = {}
"""Locks of the copies that this process reads; they are held until it ends."""


class Sharing:
    """The part of a store that is shared.

    Raises, wherever it reads or writes there, what `Objects` does.
    """

    def __init__(self, root: Path, url: str, cache_bytes: int | None) -> None:
        """`cache_bytes`: how much this machine's copies may take; None: what they want."""
        self.objects: Objects = open_objects(url)
        self.copies = Copies(self.objects)
        self._root, self._cache_bytes = root, cache_bytes
        self._manifests = Memo(self.objects, root)
        self.memo = self._manifests.folder
        """What this machine knows of the store; it can be found out again."""

    def building(
        self, kind: str, key: str, waiting: Callable[[str], None], is_done: Callable[[], bool]
    ) -> AbstractContextManager[bool]:
        """As `leased`, of the right to build an artifact."""
        return leased(self.objects, building(kind, key), waiting, is_done)

    def is_being_built(self, kind: str, key: str) -> bool:
        return is_leased(self.objects, building(kind, key))

    def find(self, kind: str, key: str) -> Manifest | None:
        """What is there whole, as far as names and sizes tell.

        Raises:
            Torn: it is there, but not whole.
        """
        manifest = self.copies.manifest(kind, key)
        if manifest is not None and (missing := self.copies.missing(manifest)):
            raise Torn(f"{len(missing)} objects are not there, or of another size, such as {missing[0]}")
        return manifest

    def manifest(self, kind: str, key: str) -> Manifest | None:
        """Asked for once, since it never changes. Raises Torn."""
        data = self._manifests.read(manifest_name(kind, key))
        return None if data is None else parsed(data, kind, key)

    def manifests(self, kind: str) -> Iterator[Manifest]:
        """Of all that is there and reads."""
        return readable(self._manifests.read_all, self.copies.keys(kind))

    def is_known_whole(self, ref: Ref) -> bool:
        """Whether this machine has sent an artifact, or has brought it here; after a day, whether it is still there."""
        try:
            digest, seen = self._mark(ref.kind, ref.key).read_text().split()
        except (FileNotFoundError, ValueError):
            return False
        if digest == ref.digest and time.time() - float(seen) < _SEEN_FOR_S:
            return True
        with suppress(Torn):
            found = self.copies.manifest(ref.kind, ref.key)
            if found is not None and found.ref == ref:
                self._note(ref)
                return True
        return False

    def send(self, manifest: Manifest, folder: Path) -> Manifest:
        """Share an artifact; returns the manifest that counts: another machine's, if that was faster."""
        found = self.copies.push(manifest, folder)
        if found.digest == manifest.digest:
            self._note(found.ref)
        return found

    def bring(self, ref: Ref, place: Path) -> bool:
        """Copy an artifact to its place here; returns whether there is such a one.

        Raises:
            Torn: it is not what its manifest says.
        """
        manifest = self.copies.manifest(ref.kind, ref.key)
        if manifest is None:
            return False
        arriving = self._root / "arriving" / f"{ref.kind}-{ref.key}-{manifest.digest[:16]}"
        arriving.mkdir(parents=True, exist_ok=True)
        self.copies.pull(manifest, arriving)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(arriving, place)
        self._note(manifest.ref)
        return True

    def use(self, ref: Ref) -> None:
        """Keep a copy from being cleared while this process lives, and remember that it was of use."""
        mark = self._mark(ref.kind, ref.key)
        if mark not in _in_use:
            _in_use[mark] = open_lock(self._lock(mark.name))
            fcntl.flock(_in_use[mark], fcntl.LOCK_SH)
        if mark.exists():
            os.utime(mark)

    def forget(self, kind: str, key: str) -> None:
        """What was known of an artifact, because it is gone there."""
        self._mark(kind, key).unlink(missing_ok=True)
        self._manifests.drop(manifest_name(kind, key))

    def make_room(self) -> None:
        """Clear copies that are shared, the longest unused first, until the rest is within the limit.

        What any process here reads stays.
        """
        if self._cache_bytes is None:
            return
        with held(self._root / "locks" / "make-room.lock", lambda holder: None):
            marks = sorted(self.memo.glob("copies/*"), key=lambda path: path.stat().st_mtime)
            places = {mark: self._root / "artifacts" / Path(*mark.name.rsplit("-", 1)) for mark in marks}
            sizes = {mark: _bytes_of(place) for mark, place in places.items() if place.is_dir()}
            over = sum(sizes.values()) - self._cache_bytes
            for mark, size in sizes.items():
                if over > 0 and self._clear(mark, places[mark]):
                    over -= size
        if over > 0:
            _LOG.warning("runtime.cache_gb: this machine's copies take %.2f GB more, all of them in use", over / 1e9)

    def _clear(self, mark: Path, place: Path) -> bool:
        """Remove a copy, unless somebody reads it."""
        lock = open_lock(self._lock(mark.name))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            leaving = self._root / "staging" / f"leaving-{mark.name}"
            leaving.parent.mkdir(exist_ok=True)
            shutil.rmtree(leaving, ignore_errors=True)
            os.rename(place, leaving)
            shutil.rmtree(leaving)
            mark.unlink(missing_ok=True)
            _LOG.info("%s: this machine's copy cleared; it is in the shared store", mark.name)
            return True
        finally:
            os.close(lock)

    def _note(self, ref: Ref) -> None:
        mark = self._mark(ref.kind, ref.key)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(f"{ref.digest} {time.time():.0f}")
        self.make_room()

    def _mark(self, kind: str, key: str) -> Path:
        return self.memo / "copies" / f"{kind}-{key}"

    def _lock(self, name: str) -> Path:
        return self._root / "locks" / "use" / f"{name}.lock"


def _bytes_of(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
