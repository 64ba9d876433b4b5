"""Objects below a URL: what the shared store needs of a file system, by fsspec.

`create` is what everything else rests on: of several machines that create one object, one does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdxl_core.errors import UserError
from sdxl_core.urls import CREDENTIALS, refuse_bad_url
from tasks.errors import StoreAway, StoreError

MARKER = "sdxl-flows-store.json"
_FORMAT = b'{"format": 1}\n'
_AT_ONCE = 16
"""Requests under way at a time; they wait for the network."""
_CREATES_ONCE = frozenset({"s3", "s3a", "gs", "gcs", "file", "local", "memory"})
"""Schemes whose file systems can create an object only where there is none, in one step."""
_LOCAL = frozenset({"file", "local"})
_ARRIVING = ".arriving-"


class Objects:
    """Names are relative to the URL, with `/` between their parts.

    Every method raises:
        StoreAway: the place cannot be reached, which may pass.
        StoreError: it does not let us.
    """

    def __init__(self, url: str) -> None:
        """
        Raises:
            StoreError: the URL is none of a place that fsspec knows here, or that keeps an object from being replaced.
        """
        self.url = url.rstrip("/")
        self._scheme = url.partition("://")[0]
        if self._scheme not in _CREATES_ONCE:
            known = ", ".join(sorted(_CREATES_ONCE))
            fix = "others cannot keep two machines from writing one object; mount those, and name the folder"
            raise StoreError.about("runtime.store", expected=f"a URL of {known}", got=f"{self._scheme}://", fix=fix)
        self._system, self._root = _open(self.url)
        self._threads = ThreadPoolExecutor(_AT_ONCE, "objects")
        with self._errors():
            self._mark()

    def read(self, name: str) -> bytes | None:
        """None where there is none."""
        with self._errors():
            try:
                return bytes(self._system.cat_file(self._key(name)))
            except FileNotFoundError:
                return None

    def read_part(self, name: str, start: int, stop: int) -> bytes | None:
        """Bytes start to stop; None where there is no such object."""
        with self._errors():
            try:
                return bytes(self._system.cat_file(self._key(name), start=start, end=stop))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """In the place of what there is; readers see the one or the other, whole."""
        with self._errors():
            if self._scheme in _LOCAL:
                self._write_file(name, data, os.replace)
            else:
                self._system.pipe_file(self._key(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Whether there was none, and this made it."""
        with self._errors():
            return self._create(name, data)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of all objects below a folder, by name."""
        with self._errors():
            found = self._system.find(self._key(folder), detail=True)
            return {self._name(key): int(info["size"] or 0) for key, info in found.items() if self._is_object(info)}

    def modified(self, folder: str) -> dict[str, float]:
        """When the objects below a folder were written, in seconds since the epoch, by the place's own clock."""
        with self._errors():
            found = self._system.find(self._key(folder), detail=True)
            return {self._name(key): _seconds(info) for key, info in found.items() if self._is_object(info)}

    def listed(self, folder: str) -> list[str]:
        """Names of what is directly in a folder, objects and folders; sorted."""
        with self._errors():
            try:
                found = self._system.ls(self._key(folder), detail=False, refresh=True)
            except FileNotFoundError:
                return []
            names = {self._name(key).rstrip("/") for key in found} - {folder}
            return sorted(name for name in names if not name.rpartition("/")[2].startswith(_ARRIVING))

    def remove(self, names: Iterable[str]) -> None:
        """What is not there is left out."""
        keys = [self._key(name) for name in names]
        with self._errors():
            for some in (keys[start : start + 1000] for start in range(0, len(keys), 1000)):
                try:
                    self._system.rm(some)
                except FileNotFoundError:
                    self.each(self._remove_one, some)

    def each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """`work` of every item, several at a time, in the items' order. The first error is raised when all are done."""
        futures = [self._threads.submit(work, item) for item in items]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in futures]

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those that are there."""
        wanted = list(names)
        found = zip(wanted, self.each(self.read, wanted), strict=True)
        return {name: data for name, data in found if data is not None}

    def _create(self, name: str, data: bytes) -> bool:
        try:
            if self._scheme in _LOCAL:
                self._write_file(name, data, os.link)
            else:
                self._system.pipe_file(self._key(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def _write_file(self, name: str, data: bytes, put: Callable[[str, str], None]) -> None:
        """fsspec's local files have neither whole writes nor a creation in one step."""
        target = Path(self._key(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=_ARRIVING, dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            put(temporary, str(target))
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _mark(self) -> None:
        """Write what says that this is a store, unless it is there; then find out whether `create` replaces things."""
        found = self.read(MARKER)
        if found is None and not self._create(MARKER, _FORMAT):
            found = self.read(MARKER)
        if found not in (None, _FORMAT):
            got = f"another {MARKER}"
            raise StoreError.about(f"runtime.store {self.url}", expected="a store of this version", got=got)
        if found is None and self._create(MARKER, _FORMAT):
            fix = "S3 can since 2024, servers like it since later: take a newer one"
            raise StoreError.about(
                f"runtime.store {self.url}", expected="a server that keeps conditions of writing", got="none", fix=fix
            )

    def _remove_one(self, key: str) -> None:
        try:
            self._system.rm_file(key)
        except FileNotFoundError:
            return

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _name(self, key: str) -> str:
        return key.lstrip("/").removeprefix(f"{self._root.lstrip('/')}/")

    def _is_object(self, info: Mapping[str, Any]) -> bool:
        name = str(info["name"]).rpartition("/")[2]
        return info.get("type") == "file" and not name.startswith(_ARRIVING) and name != ""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (StoreAway, StoreError):
            raise
        except PermissionError as error:
            raise self._refused(error) from error
        except FileNotFoundError as error:
            expected = "a bucket or folder that is there"
            raise StoreError.about(f"runtime.store {self.url}", expected=expected, got=_said(error)) from error
        except Exception as error:  # every file system raises its own
            if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
                raise self._refused(error) from error
            raise StoreAway(f"runtime.store {self.url}: cannot be reached: {_said(error)}") from error

    def _refused(self, error: Exception) -> UserError:
        fix = f"Credentials come from the environment ({CREDENTIALS}); they need to read, write, list and delete"
        return StoreError.about(f"runtime.store {self.url}", expected="access", got=_said(error), fix=fix)


@lru_cache(maxsize=8)
def open_objects(url: str) -> Objects:
    """Once in a process. Raises as `Objects` does."""
    return Objects(url)


def _open(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        refuse_bad_url(url)
        system, root = url_to_fs(
            url, use_listings_cache=False, skip_instance_cache=True
        )  # the environment may have changed
    except ValueError as error:
        raise StoreError(f"runtime.store: {error}") from None
    except ImportError as error:
        scheme = url.partition("://")[0]
        extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}[scheme]
        fix = f"pip install 'sdxl-flows[{extra}]'"
        raise StoreError.about(
            "runtime.store", expected=f"a library for {scheme}://", got=_said(error), fix=fix
        ) from None
    return system, str(root).rstrip("/")


def _said(error: BaseException) -> str:
    """Its first line, cut short: some quote whole answers."""
    said = next(iter(str(error).splitlines()), "")[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _seconds(info: Mapping[str, Any]) -> float:
    told = next((info[name] for name in ("LastModified", "updated", "mtime", "created") if info.get(name)), 0.0)
    if isinstance(told, str):
        from datetime import datetime

        return datetime.fromisoformat(told).timestamp()
    return float(told.timestamp() if hasattr(told, "timestamp") else told)
