"""Models by name: numbered versions, the one in production, and how it came to be so.

models/<name>/versions/<number>.json   what was trained and judged; written once
models/<name>/versions/<number>        link to its release artifact
models/<name>/production               link to `versions/<number>`, replaced in one step; never to what is not whole
models/<name>/history.jsonl            one line for everything that happened, appended

The link is the truth; the history tells of it afterwards, and catches up where a process died in between.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sdxl_core.disk import flush, write_durably
from sdxl_core.errors import did_you_mean
from tasks.damage import damage_of
from tasks.errors import ConfigError
from tasks.history import MOVES, Event, What, append_event, now, read_history
from tasks.locks import held
from tasks.manifest import Frozen, Ref
from tasks.references import IN_PRODUCTION
from tasks.store import ArtifactStore, say_waiting

PRODUCTION = "production"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Version(Frozen):
    """One candidate, promoted or not."""

    number: int
    release: Ref
    training: Ref
    report: Ref
    """Against the base."""
    verdict: str
    """Of all gates, against the base and against what was in production."""
    against: int | None
    """Which version was in production when it was judged."""
    asked: str
    """Digest of the configuration and of all data that it was made of."""
    made_at: str
    command: str


class Moved(Exception):
    """Somebody else has changed what is in production since one looked."""


class Registry:
    """The models of one store.

    Raises:
        ConfigError: a name that no model can have.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.root = store.root / "models"

    def names(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("*") if NAME.fullmatch(path.name))

    def folder(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ConfigError.about("model", expected="lower-case letters, digits and -", got=repr(name))
        return self.root / name

    def link(self, name: str) -> Path:
        """What consumers read and watch."""
        return self.folder(name) / PRODUCTION

    def retraining(self, name: str) -> AbstractContextManager[int]:
        """Held by a whole retraining, so that two of one model come one after the other."""
        return held(self._lock(name, "retraining"), say_waiting(f"retraining of {name}"))

    def versions(self, name: str) -> list[Version]:
        """Oldest first."""
        found = sorted(self.folder(name).glob("versions/*.json"), key=lambda path: int(path.stem))
        return [Version.model_validate_json(path.read_bytes()) for path in found]

    def version(self, name: str, number: int) -> Version:
        """Raises ConfigError where there is none."""
        path = self.folder(name) / "versions" / f"{number}.json"
        if not path.is_file():
            there = ", ".join(str(one.number) for one in self.versions(name))
            raise ConfigError.about(f"{name}@{number}", expected=f"a version ({there or 'there are none'})", got=number)
        return Version.model_validate_json(path.read_bytes())

    def production(self, name: str) -> Version | None:
        number = self._pointed(name)
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
        return read_history(self._history(name))

    def add(
        self, name: str, *, release: Ref, training: Ref, report: Ref, verdict: str, asked: str, command: str
    ) -> Version:
        """Keep a judged candidate as the next version; it changes nothing in production."""
        with self._changing(name):
            number = max((one.number for one in self.versions(name)), default=0) + 1
            version = Version(
                number=number,
                release=release,
                training=training,
                report=report,
                verdict=verdict,
                against=self._pointed(name),
                asked=asked,
                made_at=now(),
                command=command,
            )
            folder = self.folder(name) / "versions"
            folder.mkdir(parents=True, exist_ok=True)
            _link(folder / str(number), Path("../../..") / "artifacts" / release.kind / release.key)
            write_durably(folder / f"{number}.json", version.model_dump_json(indent=1).encode())
            append_event(self._history(name), "judged", number, asked=asked, reason=verdict)
        return version

    def point(self, name: str, number: int, what: What, *, expected: int | None, reason: str) -> None:
        """Put a version into production, in one step.

        Raises:
            Moved: something else than `expected` is in production by now.
            ConfigError: its release is not in the store, whole.
        """
        version = self.version(name, number)
        require_release(self.store, f"{name}@{number}", version.release)
        with self._changing(name):
            before = self._pointed(name)
            if before != expected:
                raise Moved(f"{name}: version {before} is in production by now, not {expected}")
            _link(self.link(name), Path("versions") / str(number))
            append_event(self._history(name), what, number, before=before, reason=reason)

    def note(self, name: str, what: What, version: int | None, *, asked: str | None = None, reason: str = "") -> None:
        with self._changing(name):
            append_event(self._history(name), what, version, asked=asked, reason=reason)

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
        if self._pointed(name) is None:
            return []
        with self._changing(name):
            events = self.history(name)
        places = [place for place, event in enumerate(events) if event.what in MOVES]
        return events[places[-1] :] if places else []

    def was_in_production(self, name: str, number: int) -> bool:
        """Now, or once."""
        told = any(event.what in MOVES and event.version == number for event in self.history(name))
        return told or self._pointed(name) == number

    def kept(self, count: int) -> list[Ref]:
        """Releases that must stay: of every model that in production, and the last so many promoted ones and others."""
        refs = []
        for name in self.names():
            versions = {one.number: one for one in self.versions(name)}
            promoted = dict.fromkeys(e.version for e in reversed(self.history(name)) if e.what in MOVES)
            others = [number for number in reversed(versions) if number not in promoted]
            numbers = {self._pointed(name), *list(promoted)[:count], *others[:count]}
            refs += [versions[number].release for number in numbers if number in versions]
        return refs

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """Alone with a model's files, and its history up to date."""
        with held(self._lock(name, "pointer"), lambda holder: None):
            self.folder(name).mkdir(parents=True, exist_ok=True)
            told = [event.version for event in self.history(name) if event.what in MOVES]
            last, pointed = told[-1] if told else None, self._pointed(name)
            if pointed is not None and pointed != last:
                reason = "told afterwards: a process died in between"
                append_event(self._history(name), "promoted", pointed, before=last, reason=reason)
            yield

    def _lock(self, name: str, what: str) -> Path:
        self.folder(name)
        return self.store.root / "locks" / f"model-{name}-{what}.lock"

    def _pointed(self, name: str) -> int | None:
        try:
            return int(Path(os.readlink(self.link(name))).name)
        except FileNotFoundError:
            return None

    def _history(self, name: str) -> Path:
        return self.folder(name) / "history.jsonl"


def require_release(store: ArtifactStore, what: str, release: Ref) -> None:
    """Raises ConfigError where a release is not in the store with the very bytes that were written."""
    if damage := damage_of(store, release.kind, release.key):
        raise ConfigError(f"{what}: its release {release} is damaged ({damage}); retrain it with --force")
    if store.manifest(release.kind, release.key) is None:
        raise ConfigError(f"{what}: its release {release} is not in the store any more; retrain it with --force")


def _link(path: Path, target: Path) -> None:
    """A link in place of another, if there is one, without a moment in which there is none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    flush(path.parent)
