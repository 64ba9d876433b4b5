"""Models of a store: their versions, what is in production, and how it came to be so.

Of a store that is a folder:
models/<name>/versions/<n>.json, versions/<n>, production -> versions/<n>, history.jsonl    (tasks.model_folder)
Of a store that machines share:
models/<name>/versions/<n>.json, history/<n>.json, production.json                          (tasks.shared.models)
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from sdxl_core.errors import did_you_mean
from tasks.damage import damage_of
from tasks.errors import ConfigError
from tasks.history import MOVES, Event, What
from tasks.manifest import Ref
from tasks.model_folder import FolderModels
from tasks.references import IN_PRODUCTION
from tasks.store import ArtifactStore
from tasks.versions import Candidate, Models, Version


class Registry:
    """The models of one store.

    Raises:
        ConfigError: a name that no model can have.
        StoreAway: the store is shared, and cannot be reached.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self._models = _models(store)

    @property
    def place(self) -> str:
        """For people."""
        return self._models.place

    def names(self) -> list[str]:
        return self._models.names()

    def at(self, name: str, number: int | None = None) -> str:
        """Where a version lies, or what is in production: what consumers read and watch. A path, or a URL."""
        return self._models.at(name, number)

    def retraining(self, name: str) -> AbstractContextManager[object]:
        """Held by a whole retraining, so that two of one model come one after the other, on whichever machines."""
        return self._models.retraining(name)

    def versions(self, name: str) -> list[Version]:
        """Oldest first."""
        return self._models.versions(name)

    def version(self, name: str, number: int) -> Version:
        """Raises ConfigError where there is none."""
        found = self._models.version(name, number)
        if found is None:
            there = ", ".join(str(one.number) for one in self.versions(name))
            raise ConfigError.about(f"{name}@{number}", expected=f"a version ({there or 'there are none'})", got=number)
        return found

    def production(self, name: str) -> Version | None:
        number = self._models.pointed(name)
        return None if number is None else self.version(name, number)

    def require(self, name: str) -> Version:
        """What is in production. Raises ConfigError where nothing is."""
        found = self.production(name)
        if found is None:
            near = did_you_mean(name, self.names()) or f"There are: {', '.join(self.names()) or 'none'}."
            raise ConfigError.about(name, expected="a model with a version in production", got="none of it", fix=near)
        return found

    def history(self, name: str) -> list[Event]:
        """Oldest first."""
        return self._models.history(name)

    def add(
        self, name: str, *, release: Ref, training: Ref, report: Ref, verdict: str, asked: str, command: str
    ) -> Version:
        """Keep a judged candidate as the next version; it changes nothing in production."""
        return self._models.add(name, Candidate(release, training, report, verdict, asked, command))

    def point(self, name: str, number: int, what: What, *, expected: int | None, reason: str) -> None:
        """Put a version into production, in one step.

        Raises:
            Moved: something else than `expected` is in production by now.
            ConfigError: its release is not in the store, whole.
        """
        version = self.version(name, number)
        require_release(self.store, f"{name}@{number}", version.release)
        self._models.point(name, version, what, expected, reason)

    def note(self, name: str, what: What, version: int | None, *, asked: str | None = None, reason: str = "") -> None:
        self._models.note(name, what, version, asked, reason)

    def reference(self, name: str, version: Version) -> str:
        """How to name a version where models are named: by its training, or where that is gone, by its release."""
        if self.store.find_whole(version.training.kind, version.training.key) is not None:
            return f"{IN_PRODUCTION}{name}@{version.number}"
        require_release(self.store, f"{name}@{version.number}", version.release)
        return str(self.store.path(version.release))

    def earlier(self, name: str, current: Version) -> Version:
        """What was in production before `current` came to be so first.

        Raises:
            ConfigError: nothing was.
        """
        came = [event for event in self.history(name) if event.what in MOVES and event.version == current.number]
        if not came or came[0].before is None:
            raise ConfigError(f"{name}: nothing was in production before version {current.number}; name one by --to")
        return self.version(name, came[0].before)

    def since_it_moved(self, name: str) -> list[Event]:
        """The last event that changed what is in production, and all after it."""
        if self._models.pointed(name) is None:
            return []
        events = self._models.settled_history(name)
        places = [place for place, event in enumerate(events) if event.what in MOVES]
        return events[places[-1] :] if places else []

    def was_in_production(self, name: str, number: int) -> bool:
        """Now, or once."""
        told = any(event.what in MOVES and event.version == number for event in self.history(name))
        return told or self._models.pointed(name) == number

    def kept(self, count: int) -> list[Ref]:
        """Releases that must stay: of every model that in production, and the last so many promoted ones and others."""
        refs = []
        for name in self.names():
            versions = {one.number: one for one in self.versions(name)}
            promoted = dict.fromkeys(e.version for e in reversed(self.history(name)) if e.what in MOVES)
            others = [number for number in reversed(versions) if number not in promoted]
            numbers = {self._models.pointed(name), *list(promoted)[:count], *others[:count]}
            refs += [versions[number].release for number in numbers if number in versions]
        return refs


def require_release(store: ArtifactStore, what: str, release: Ref) -> None:
    """Raises ConfigError where a release is not in the store with the very bytes that were written."""
    if damage := damage_of(store, release.kind, release.key):
        raise ConfigError(f"{what}: its release {release} is damaged ({damage}); retrain it with --force")
    if store.manifest(release.kind, release.key) is None:
        raise ConfigError(f"{what}: its release {release} is not in the store any more; retrain it with --force")


def _models(store: ArtifactStore) -> Models:
    if store.objects is None:
        return FolderModels(store)
    from tasks.shared.models import SharedModels

    return SharedModels(store, store.objects)
