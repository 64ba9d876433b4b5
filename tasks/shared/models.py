"""Models in the shared store. Nothing is locked: every step is one object that is created once.

models/<name>/versions/<n>.json           what was judged
models/<name>/history/<00000001>.json     what happened; production is what the last move says
models/<name>/production.json             the same for who watches one object: it follows the history, by a moment
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tasks.errors import ConfigError, StoreAway, StoreError
from tasks.history import MOVES, Event, What, happened, now
from tasks.locks import held
from tasks.manifest import MANIFEST, Json
from tasks.shared.leases import leased
from tasks.shared.log import Document, Log
from tasks.shared.memo import Memo
from tasks.shared.objects import Objects
from tasks.store import ArtifactStore, say_waiting
from tasks.versions import NAME, PRODUCTION, Candidate, Moved, Version, require_name

_LOG = logging.getLogger("sdxl_flows.store")


class SharedModels:
    """`tasks.versions.Models` of a store that machines share. Raises what `Objects` does."""

    def __init__(self, store: ArtifactStore, objects: Objects) -> None:
        self._locks = store.root / "locks"
        self._objects = objects
        self._memo = Memo(objects, store.root)
        self._told: dict[str, int] = {}
        """By model, the last move that production.json is known to tell of."""

    @property
    def place(self) -> str:
        return f"{self._objects.url}/models"

    def names(self) -> list[str]:
        found = (name.rpartition("/")[2] for name in self._objects.listed("models"))
        return [name for name in found if NAME.fullmatch(name)]

    def at(self, name: str, number: int | None) -> str:
        below = f"{PRODUCTION}.json" if number is None else f"versions/{number}.json"
        return f"{self.place}/{require_name(name)}/{below}"

    @contextmanager
    def retraining(self, name: str) -> Iterator[None]:
        """Of one machine's processes one waits for all; they for each other."""
        say = say_waiting(f"retraining of {name}")
        with (
            held(self._locks / f"model-{require_name(name)}-retraining.lock", say),
            leased(self._objects, f"retraining-{name}", say, lambda: False),
        ):
            yield

    def versions(self, name: str) -> list[Version]:
        return [Version.model_validate(document) for document in self._versions(name).read().values()]

    def version(self, name: str, number: int) -> Version | None:
        found = self._versions(name).read().get(number)
        return None if found is None else Version.model_validate(found)

    def pointed(self, name: str) -> int | None:
        there = self._history(name).read()
        self._tell(name, there)
        return _in_production(there)

    def history(self, name: str) -> list[Event]:
        return [Event.model_validate(document) for document in self._history(name).read().values()]

    def settled_history(self, name: str) -> list[Event]:
        """A move is told by being made."""
        return self.history(name)

    def add(self, name: str, candidate: Candidate) -> Version:
        against = _in_production(self._history(name).read())

        def document(there: Mapping[int, Document], number: int) -> Document:
            return candidate.numbered(number, against, now()).model_dump(mode="json")

        number = self._versions(name).append(document)
        self.note(name, "judged", number, candidate.asked, candidate.verdict)
        version = self.version(name, number)
        assert version is not None
        return version

    def point(self, name: str, version: Version, what: What, expected: int | None, reason: str) -> None:
        """
        Raises:
            Moved: something else than `expected` is in production.
            ConfigError: no other machine could fetch its release.
        """
        release = version.release
        if self._objects.read(f"artifacts/{release.kind}/{release.key}/{MANIFEST}") is None:
            got = f"{release}, which is only here"
            raise ConfigError.about(f"{name}@{version.number}", expected="a release in the shared store", got=got)

        def document(there: Mapping[int, Document], number: int) -> Document:
            before = _in_production(there)
            if before != expected:
                raise Moved.by(name, before, expected)
            return happened(what, version.number, before=before, reason=reason).model_dump(mode="json")

        self._history(name).append(document)
        self._tell(name, self._history(name).read())

    def note(self, name: str, what: What, version: int | None, asked: str | None, reason: str) -> None:
        event = happened(what, version, asked=asked, reason=reason).model_dump(mode="json")
        self._history(name).append(lambda there, number: event)

    def _tell(self, name: str, there: Mapping[int, Document]) -> None:
        """Bring production.json up to date, whoever has left it behind.

        Whoever writes it looks again afterwards: so of several, whichever writes last, the last move is told.
        """
        try:
            while (move := _last_move(there)) != self._told.get(name, 0):
                self._write_production(name, move, there[move])
                self._told[name] = move
                there = self._history(name).read()
        except (StoreAway, StoreError) as error:
            _LOG.warning("%s: production.json may be behind the history: %s", name, error)

    def _write_production(self, name: str, move: int, event: Document) -> None:
        version = self.version(name, event["version"])
        if version is None:
            return
        release = version.release
        told: dict[str, Json] = {
            "model": name,
            "version": version.number,
            "move": move,
            "at": event["at"],
            "release": str(release),
            "digest": release.digest,
            "url": f"{self._objects.url}/artifacts/{release.kind}/{release.key}",
        }
        place, data = f"models/{name}/{PRODUCTION}.json", json.dumps(told, indent=1).encode()
        if self._objects.read(place) != data:
            self._objects.write(place, data)

    def _versions(self, name: str) -> Log:
        return Log(self._objects, self._memo, f"models/{require_name(name)}/versions", 1)

    def _history(self, name: str) -> Log:
        return Log(self._objects, self._memo, f"models/{require_name(name)}/history", 8)


def _last_move(there: Mapping[int, Document]) -> int:
    """Its number; 0 where nothing was moved yet."""
    return max((number for number, event in there.items() if event["what"] in MOVES), default=0)


def _in_production(there: Mapping[int, Document]) -> int | None:
    move = _last_move(there)
    number: int | None = there[move]["version"] if move else None
    return number
