"""Trainings in the shared store, so that another machine goes on where one was lost.

trainings/<key>/state.json           which files the training has, written last
trainings/<key>/files/<sha256>       what they hold

While a machine trains, it sends its bundles as they come. Who trains holds the lease of the artifact, so one writes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from sdxl_core.bundles import MANIFEST, STAGING, steps_of
from sdxl_core.disk import file_sha256
from tasks.errors import StoreAway
from tasks.manifest import LOGS, FileRecord, Json
from tasks.shared.files import FileSet, Torn, fetch, send
from tasks.shared.objects import Objects

_LOG = logging.getLogger("sdxl_flows.store")
_BUNDLES = "bundles"
_LOOK_EVERY_S = 5.0
_SETTLED_S = 2.0
"""A file that is not a bundle's may be half written for less time."""


class SharedTraining:
    """One training's folder on this machine, and what is known of it elsewhere."""

    def __init__(self, objects: Objects, key: str, folder: Path) -> None:
        self._objects, self._folder = objects, folder
        self._place = f"trainings/{key}"
        self._sent: int | None = None
        """The newest step of what was sent."""

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Bring here what another machine has, if that is further; and send what comes until this ends.

        A store that cannot be reached meanwhile is told in the log; the training goes on.

        Raises:
            StoreAway, DiskFullError: what another machine has cannot be brought here.
        """
        self._bring()
        over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(over,), daemon=True, name="shares bundles")
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()

    def _bring(self) -> None:
        arriving = self._folder.with_name(f"{STAGING}{self._folder.name}")
        try:
            state = self._state()
            if state is None or state["step"] <= self._newest():
                return
            _LOG.info("train: another machine has got to step %d; going on from there", state["step"])
            arriving.mkdir(parents=True, exist_ok=True)
            fetch(self._objects, self._file_set(_records(state)), arriving)
            _move(arriving, self._folder)
            self._sent = state["step"]
        except Torn as damage:
            shutil.rmtree(arriving, ignore_errors=True)
            _LOG.warning("train: what another machine has of this training is not whole (%s); not used", damage)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_LOOK_EVERY_S):
            self._send_news()
        self._send_news()

    def _send_news(self) -> None:
        newest = self._newest()
        if newest <= 0 or newest == self._sent:
            return
        try:
            self._send(newest)
            self._sent = newest
        except (StoreAway, OSError) as error:  # a bundle that was rotated away while it was read, too
            _LOG.warning("train: the bundle of step %d was not shared: %s", newest, error)

    def _send(self, newest: int) -> None:
        files = self._files()
        before = self._objects.sizes(f"{self._place}/files")
        wanted = self._file_set(files)
        send(self._objects, wanted, self._folder, before)
        state = {"step": newest, "files": {name: [record.sha256, record.bytes] for name, record in files.items()}}
        self._objects.write(f"{self._place}/state.json", json.dumps(state).encode())
        named = {part.name for part in wanted.parts()}
        self._objects.remove([name for name in before if name not in named])

    def _files(self) -> dict[str, FileRecord]:
        """Of whole bundles, and what else was there for a moment; logs are this machine's own."""
        settled = time.time() - _SETTLED_S
        found = {}
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if not path.is_file() or name.startswith(LOGS) or STAGING in name:
                continue
            if name.startswith(f"{_BUNDLES}/"):
                is_there = (self._folder / _BUNDLES / name.split("/")[1] / MANIFEST).is_file()
            else:
                is_there = path.stat().st_mtime < settled
            if is_there:
                found[name] = FileRecord(file_sha256(path), path.stat().st_size)
        return found

    def _newest(self) -> int:
        """Step of the newest bundle here; 0 where there is none."""
        steps = [step for step, path in steps_of(self._folder / _BUNDLES) if (path / MANIFEST).is_file()]
        return max(steps, default=0)

    def _state(self) -> dict[str, Json] | None:
        """Raises Torn."""
        data = self._objects.read(f"{self._place}/state.json")
        if data is None:
            return None
        try:
            state: dict[str, Json] = json.loads(data)
            return {"step": int(state["step"]), "files": dict(state["files"])}
        except (ValueError, TypeError, KeyError):
            raise Torn("state.json is unreadable") from None

    def _file_set(self, files: dict[str, FileRecord]) -> FileSet:
        return FileSet("train: bundles", files, lambda file: f"{self._place}/files/{files[file].sha256}")


def _records(state: dict[str, Json]) -> dict[str, FileRecord]:
    """Raises Torn where a name leads out of the folder."""
    for name in state["files"]:
        path = PurePosixPath(name)
        if path.is_absolute() or path.as_posix() != name or ".." in path.parts or "\0" in name:
            raise Torn(f"state.json names {name!r}, which is no file of a training")
    return {name: FileRecord(str(sha256), int(size)) for name, (sha256, size) in state["files"].items()}


def _move(arriving: Path, folder: Path) -> None:
    """Bundles each in one step, since the trainer takes what it finds of one for damage."""
    (folder / _BUNDLES).mkdir(parents=True, exist_ok=True)
    for path in sorted(arriving.rglob("*")):
        name = path.relative_to(arriving)
        if path.is_file() and name.parts[0] != _BUNDLES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / name)
    for bundle in sorted((arriving / _BUNDLES).glob("*")):
        shutil.rmtree(folder / _BUNDLES / bundle.name, ignore_errors=True)
        os.rename(bundle, folder / _BUNDLES / bundle.name)
    shutil.rmtree(arriving)
