"""Models in the store's folder: versions as files, production as a link that is replaced in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sdxl_core.disk import flush, write_durably
from tasks.history import MOVES, Event, What, append_event, now, read_history
from tasks.locks import held
from tasks.store import ArtifactStore, say_waiting
from tasks.versions import NAME, PRODUCTION, Candidate, Moved, Version, require_name


class FolderModels:
    """`tasks.versions.Models` of a store that is a folder."""

    def __init__(self, store: ArtifactStore) -> None:
        self._locks = store.root / "locks"
        self._root = store.root / "models"

    @property
    def place(self) -> str:
        return str(self._root)

    def names(self) -> list[str]:
        return sorted(path.name for path in self._root.glob("*") if NAME.fullmatch(path.name))

    def at(self, name: str, number: int | None) -> str:
        return str(self._link(name) if number is None else self._folder(name) / "versions" / str(number))

    def retraining(self, name: str) -> AbstractContextManager[object]:
        return held(self._lock(name, "retraining"), say_waiting(f"retraining of {name}"))

    def versions(self, name: str) -> list[Version]:
        found = sorted(self._folder(name).glob("versions/*.json"), key=lambda path: int(path.stem))
        return [Version.model_validate_json(path.read_bytes()) for path in found]

    def version(self, name: str, number: int) -> Version | None:
        path = self._folder(name) / "versions" / f"{number}.json"
        return Version.model_validate_json(path.read_bytes()) if path.is_file() else None

    def pointed(self, name: str) -> int | None:
        try:
            return int(Path(os.readlink(self._link(name))).name)
        except FileNotFoundError:
            return None

    def history(self, name: str) -> list[Event]:
        return read_history(self._history(name))

    def settled_history(self, name: str) -> list[Event]:
        with self._changing(name):
            return self.history(name)

    def add(self, name: str, candidate: Candidate) -> Version:
        with self._changing(name):
            number = max((one.number for one in self.versions(name)), default=0) + 1
            version = candidate.numbered(number, self.pointed(name), now())
            folder, release = self._folder(name) / "versions", candidate.release
            folder.mkdir(parents=True, exist_ok=True)
            replace_link(folder / str(number), Path("../../..") / "artifacts" / release.kind / release.key)
            write_durably(folder / f"{number}.json", version.model_dump_json(indent=1).encode())
            append_event(self._history(name), "judged", number, asked=candidate.asked, reason=candidate.verdict)
        return version

    def point(self, name: str, version: Version, what: What, expected: int | None, reason: str) -> None:
        with self._changing(name):
            before = self.pointed(name)
            if before != expected:
                raise Moved.by(name, before, expected)
            replace_link(self._link(name), Path("versions") / str(version.number))
            append_event(self._history(name), what, version.number, before=before, reason=reason)

    def note(self, name: str, what: What, version: int | None, asked: str | None, reason: str) -> None:
        with self._changing(name):
            append_event(self._history(name), what, version, asked=asked, reason=reason)

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """Alone with a model's files, and its history up to date."""
        with held(self._lock(name, "pointer"), lambda holder: None):
            self._folder(name).mkdir(parents=True, exist_ok=True)
            told = [event.version for event in self.history(name) if event.what in MOVES]
            last, pointed = told[-1] if told else None, self.pointed(name)
            if pointed is not None and pointed != last:
                reason = "told afterwards: a process died in between"
                append_event(self._history(name), "promoted", pointed, before=last, reason=reason)
            yield

    def _folder(self, name: str) -> Path:
        return self._root / require_name(name)

    def _link(self, name: str) -> Path:
        """What consumers read and watch."""
        return self._folder(name) / PRODUCTION

    def _lock(self, name: str, what: str) -> Path:
        return self._locks / f"model-{require_name(name)}-{what}.lock"

    def _history(self, name: str) -> Path:
        return self._folder(name) / "history.jsonl"


def replace_link(path: Path, target: Path) -> None:
    """A link in place of another, if there is one, without a moment in which there is none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    flush(path.parent)
