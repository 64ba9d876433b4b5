"""A model's versions, and what has to keep them: a folder (`tasks.model_folder`), or the store that machines share
(`tasks.shared.models`)."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from tasks.errors import ConfigError
from tasks.history import Event, What
from tasks.manifest import Frozen, Ref

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


@dataclass(frozen=True)
class Candidate:
    """What was judged, before it has a number. Fields as of `Version`."""

    release: Ref
    training: Ref
    report: Ref
    verdict: str
    asked: str
    command: str

    def numbered(self, number: int, against: int | None, made_at: str) -> Version:
        return Version(
            number=number,
            release=self.release,
            training=self.training,
            report=self.report,
            verdict=self.verdict,
            against=against,
            asked=self.asked,
            made_at=made_at,
            command=self.command,
        )


class Moved(Exception):
    """Somebody else has changed what is in production since one looked."""

    @classmethod
    def by(cls, name: str, before: int | None, expected: int | None) -> Moved:
        return cls(f"{name}: version {before} is in production by now, not {expected}")


class Models(Protocol):
    """Keeps the versions of models, what is in production, and what happened.

    Every method that takes a model's name raises ConfigError where no model can be called so.
    """

    @property
    def place(self) -> str:
        """Of all models, for people."""
        ...

    def names(self) -> list[str]: ...

    def at(self, name: str, number: int | None) -> str:
        """Where a version lies, or with None what is in production: a path or URL."""
        ...

    def retraining(self, name: str) -> AbstractContextManager[object]:
        """Held by a whole retraining, so that two of one model come one after the other."""
        ...

    def versions(self, name: str) -> list[Version]:
        """Oldest first."""
        ...

    def version(self, name: str, number: int) -> Version | None: ...

    def pointed(self, name: str) -> int | None:
        """Which version is in production."""
        ...

    def history(self, name: str) -> list[Event]:
        """Oldest first."""
        ...

    def settled_history(self, name: str) -> list[Event]:
        """With every move told, also one whose process died before it told of it."""
        ...

    def add(self, name: str, candidate: Candidate) -> Version:
        """Give it the next number."""
        ...

    def point(self, name: str, version: Version, what: What, expected: int | None, reason: str) -> None:
        """Put a version into production, in one step.

        Raises:
            Moved: something else than `expected` is in production.
        """
        ...

    def note(self, name: str, what: What, version: int | None, asked: str | None, reason: str) -> None:
        """Write down what happened, where that moves nothing."""
        ...


def require_name(name: str) -> str:
    """Raises ConfigError where no model can be called so."""
    if not NAME.fullmatch(name):
        raise ConfigError.about("model", expected="lower-case letters, digits and -", got=repr(name))
    return name
