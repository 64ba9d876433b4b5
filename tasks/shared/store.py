"""An artifact store that machines share: its folder holds this machine's copies, and all that is only its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from tasks.errors import StoreAway, StoreError
from tasks.locks import held
from tasks.manifest import Manifest, Ref
from tasks.shared.cells import SharedCells
from tasks.shared.files import Torn
from tasks.shared.sharing import Sharing
from tasks.shared.trainings import SharedTraining
from tasks.store import ArtifactStore, DamagedArtifact, StorePlace, say_waiting

_LOG = logging.getLogger("sdxl_flows.store")


class SharedStore(ArtifactStore):
    """Artifacts below a URL.

    An artifact that any machine has built is found, and brought here when its files are asked for (`path`). Of several
    machines that want the same one builds. What this machine had before it shared is sent when it is used again.
    """

    def __init__(self, place: StorePlace) -> None:
        """Raises StoreError and StoreAway."""
        super().__init__(Path(place.root), place.verify)
        assert place.url is not None
        self._shared_place = place
        self._sharing = Sharing(self.root, place.url, place.cache_bytes)
        self._used_cells: list[SharedCells] = []
        self.objects = self._sharing.objects

    @property
    def place(self) -> StorePlace:
        return self._shared_place

    def path(self, ref: Ref) -> Path:
        """The folder of this machine's copy, which is made if there is none.

        Raises:
            StoreAway, DiskFullError: it cannot be brought here now.
            StoreError: what is shared is not what was written; the next run builds it again.
        """
        place = self._place(ref.kind, ref.key)
        self._sharing.use(ref)
        if not place.is_dir():
            self._bring(ref, place)
        return place

    def cells(self, name: str) -> SharedCells:
        cells = SharedCells(self.cells_path(name), self._sharing.objects, self._sharing.memo)
        self._used_cells.append(cells)
        return cells

    def sharing_training(self, key: str, folder: Path) -> AbstractContextManager[None]:
        """Raises StoreAway and DiskFullError, where another machine's bundles cannot be brought here."""
        return SharedTraining(self._sharing.objects, key, folder).kept()

    def share_cells(self) -> None:
        while self._used_cells:
            self._used_cells.pop().close()

    def manifest(self, kind: str, key: str) -> Manifest | None:
        if self._place(kind, key).is_dir():
            return super().manifest(kind, key)
        try:
            return self._sharing.manifest(kind, key)
        except Torn as damage:
            raise DamagedArtifact(str(damage)) from None

    def find(self, kind: str, key: str) -> Ref | None:
        """Like its parent's; and what is not here, if it is shared with every object at its size."""
        if self._place(kind, key).is_dir():
            return super().find(kind, key)
        try:
            manifest = self._sharing.find(kind, key)
        except Torn as damage:
            raise DamagedArtifact(f"in the shared store: {damage}") from None
        return None if manifest is None else manifest.ref

    def manifests(self, kind: str = "*") -> Iterator[Manifest]:
        """Those of all machines, and of this one what it has not shared."""
        shared = list(self._sharing.manifests(kind))
        there = {manifest.ref for manifest in shared}
        here = [manifest for manifest in super().manifests(kind) if manifest.ref not in there]
        return iter(sorted([*shared, *here], key=lambda manifest: (manifest.created, manifest.key)))

    def places(self) -> list[tuple[str, str]]:
        return sorted({*super().places(), *self._sharing.copies.keys()})

    def problems(self, manifest: Manifest) -> list[str]:
        """Of this machine's copy; where there is none, of what is shared, without bringing it here."""
        if self._place(manifest.recipe.kind, manifest.key).is_dir():
            return super().problems(manifest)
        return [f"in the shared store: {problem}" for problem in self._sharing.copies.problems(manifest)]

    def is_being_built(self, kind: str, key: str) -> bool:
        """On any machine, as far as can be told; also where one has died at it."""
        with suppress(StoreAway):
            return super().is_being_built(kind, key) or self._sharing.is_being_built(kind, key)
        return False

    def is_shared(self, ref: Ref) -> bool:
        return not self._place(ref.kind, ref.key).is_dir() or self._sharing.is_known_whole(ref)

    def set_aside(self, kind: str, key: str, reason: str) -> None:
        """A damaged copy, or where there is none, the manifest of what is damaged in the shared store."""
        if self._place(kind, key).is_dir():
            super().set_aside(kind, key, reason)
            return
        self._sharing.forget(kind, key)
        target = self._sharing.copies.set_aside(kind, key)
        _LOG.warning("damaged artifact %s/%s (%s): its manifest is set aside in %s", kind, key, reason, target)

    def _share(self, ref: Ref) -> Ref:
        """Send an artifact unless that was done; returns the one that counts, which may be another machine's."""
        if self.is_shared(ref):
            return ref
        manifest = self.manifest(ref.kind, ref.key)
        assert manifest is not None
        found = self._sharing.send(manifest, self._place(ref.kind, ref.key)).ref
        if found != ref:
            _LOG.warning("%s: another machine's is in the shared store, with other bytes; that one counts", ref)
            super().set_aside(ref.kind, ref.key, "not the one that is shared")
        return found

    def _by_one(self, kind: str, key: str, label: str, build: Callable[[], Ref]) -> Ref:
        """Of all machines."""
        with self._sharing.building(kind, key, say_waiting(label), lambda: self.find_whole(kind, key) is not None):
            return self.find_whole(kind, key) or self._share(build())

    def _bring(self, ref: Ref, place: Path) -> None:
        with held(self.lock_path(ref.kind, ref.key), say_waiting(f"copy of {ref}")):
            if place.is_dir():
                return
            try:
                if self._sharing.bring(ref, place):
                    self._note_whole(ref)
            except Torn as damage:
                self.set_aside(ref.kind, ref.key, str(damage))
                message = f"{ref} in the shared store is damaged ({damage}); run again: it is built anew"
                raise StoreError(message) from None
