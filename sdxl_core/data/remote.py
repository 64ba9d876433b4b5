"""What lies below a URL: one listing, with a safe local name for every object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sdxl_core.data.sources.base import printable, refuse_odd_name
from sdxl_core.errors import UserError, did_you_mean
from sdxl_core.urls import CREDENTIALS

MAX_OBJECTS = 2_000_000
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_STRONG = ("md5Hash", "ETag", "etag")
"""What changes with an object's bytes, best first; by the names that file systems give it."""
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created", "ino")
_LONGEST_NAME = 255
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Remote:
    """An object."""

    key: str
    stamp: str
    """Differs between versions of the object; empty where its file system tells nothing that does."""
    bytes: int


@dataclass(frozen=True)
class Listing:
    system: Any
    """fsspec's; it reads objects by their keys."""
    objects: Mapping[str, Remote]
    """By name relative to the URL."""
    is_file: bool
    """The URL is of one object, which has its own last part for a name."""


def list_objects(url: str, setting: str) -> Listing:
    """All objects below `url` but hidden ones, asked for anew.

    Raises:
        UserError: nothing is there, it cannot be reached, or a key cannot become a name in a folder.
    """
    system, root = _open(url, setting)
    try:
        system.invalidate_cache()
        found = system.find(root, detail=True)
    except Exception as error:  # every file system raises its own
        raise unreachable(url, setting, error) from error
    if len(found) > MAX_OBJECTS:
        fix = "Pack pictures into parquet files, or name a folder with fewer"
        raise UserError.about(f"{setting} {url}", expected=f"at most {MAX_OBJECTS} objects", got=len(found), fix=fix)
    root = root.rstrip("/")
    is_file = list(found) == [root]
    base = root.rpartition("/")[0] if is_file else root
    named = {key.removeprefix(f"{base}/"): (key, info) for key, info in found.items() if _is_wanted(key, base, info)}
    if not named:
        raise UserError.about(f"{setting} {url}", expected="objects", got="none; is the name right?")
    if mistakes := [f"{printable(name)!r}: {reason}" for name, reason in _mistakes(base, named)]:
        more = f"; and {len(mistakes) - _NAMED} more" if len(mistakes) > _NAMED else ""
        raise UserError(f"{setting} {url}: {'; '.join(mistakes[:_NAMED])}{more}")
    return Listing(system, {name: _remote(key, info) for name, (key, info) in sorted(named.items())}, is_file)


def unreachable(url: str, setting: str, error: BaseException) -> UserError:
    """What an error of a file system means to its user. Its own words are cut short: some quote whole answers."""
    said = next(iter(str(error).splitlines()), "")[:200]
    got = f"{type(error).__name__}: {said}" if said else type(error).__name__
    fix = f"Credentials come from the environment ({CREDENTIALS}); FSSPEC_S3_ANON=true reads a public bucket"
    return UserError.about(f"{setting} {url}", expected="objects that can be read", got=got, fix=fix)


def _open(url: str, setting: str) -> tuple[Any, str]:
    from fsspec import get_filesystem_class
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0]
    try:
        get_filesystem_class(scheme)
    except ValueError:
        near = did_you_mean(scheme, ("s3", "gs", "az", "abfs", "file", "memory", "sftp", "smb"))
        got = f"{scheme}://"
        raise UserError.about(f"{setting} {url}", expected="a scheme that fsspec knows", got=got, fix=near) from None
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        package = next(iter(str(error).splitlines()), "")
        fix = f"pip install 'sdxl-flows[{extra}]'" if extra else f"install what it needs: {package[:200]}"
        raise UserError.about(f"{setting} {url}", expected=f"a library for {scheme}://", got="none", fix=fix) from None
    try:
        system, root = url_to_fs(url, skip_instance_cache=True)  # the environment may have changed since
        return system, str(root)
    except Exception as error:
        raise unreachable(url, setting, error) from error


def _is_wanted(key: str, base: str, info: Mapping[str, Any]) -> bool:
    """Not what stands for a folder, nor what no source reads; what lies outside is wanted, to be refused by name."""
    parts = PurePosixPath(key.removeprefix(f"{base}/")).parts
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
    return info.get("type") != "directory" and not key.endswith("/") and not hidden


def _mistakes(base: str, named: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    folders = {parent.as_posix() for name in named for parent in PurePosixPath(name).parents}
    for name, (key, info) in named.items():
        try:
            if not key.startswith(f"{base}/"):
                raise ValueError("lies outside of it")
            refuse_odd_name(name)
        except ValueError as error:
            yield name, str(error)
            continue
        if PurePosixPath(name).as_posix() != name:
            yield name, "a name with an empty part or `.` between two /, which no folder can have"
        elif any(len(part.encode()) > _LONGEST_NAME for part in name.split("/")):
            yield name[:80], f"a name longer than {_LONGEST_NAME} bytes"
        elif name in folders:
            yield name, "an object where others have a folder"
        elif info.get("islink"):
            yield name, "a link; put the file itself there"


def _remote(key: str, info: Mapping[str, Any]) -> Remote:
    size = info.get("size")
    strong = [(field, str(info[field])) for field in _STRONG if info.get(field)][:1]
    told = strong or [(field, str(info[field])) for field in _TIMES if info.get(field)]
    return Remote(key, json.dumps([size, *told]) if told else "", -1 if size is None else int(size))
