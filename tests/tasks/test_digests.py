"""Digests see bytes, never places or times."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.digests import FileDigests, canonical_json, digest_json


@pytest.fixture
def a_minute_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written now are old enough for their digests to be remembered."""
    now = time.time_ns
    monkeypatch.setattr("tasks.digests.time.time_ns", lambda: now() + 60_000_000_000)


@pytest.mark.usefixtures("a_minute_later")
def test_a_digest_is_the_sha256_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests, path = FileDigests(tmp_path / "memo"), tmp_path / "file"
    path.write_bytes(b"abc")
    assert digests(path) == hashlib.sha256(b"abc").hexdigest()
    monkeypatch.setattr("tasks.digests.file_sha256", lambda path: pytest.fail("read again"))
    assert FileDigests(tmp_path / "memo")(path) == hashlib.sha256(b"abc").hexdigest()


def edited_in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def replaced(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    os.replace(path.with_suffix(".new"), path)


@pytest.mark.usefixtures("a_minute_later")
@pytest.mark.parametrize("edit", [edited_in_place, replaced])
@pytest.mark.parametrize("data", [b"abd", b"abcd"])
@pytest.mark.parametrize("keep_mtime", [True, False])
def test_every_edit_is_seen(tmp_path: Path, edit: Callable[[Path, bytes], None], data: bytes, keep_mtime: bool) -> None:
    """Above all the one that leaves size and mtime as they were, which some tools do."""
    digests, path = FileDigests(tmp_path / "memo"), tmp_path / "file"
    path.write_bytes(b"abc")
    before = path.stat()
    digests(path)
    time.sleep(0.02)  # more than the file system's clock ticks
    edit(path, data)
    if keep_mtime:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert digests(path) == hashlib.sha256(data).hexdigest()


def test_a_change_within_the_clocks_tick_is_seen(tmp_path: Path) -> None:
    """A file whose mtime is old may have been changed a moment ago, and may change once more in the same tick."""
    stamps: list[str] = []
    digests, path = FileDigests(tmp_path / "memo"), tmp_path / "file"
    for data in (b"abc", b"abd"):
        path.write_bytes(data)
        os.utime(path, (1, 1))
        stamps.append(digests(path))
        with sqlite3.connect(tmp_path / "memo") as table:
            assert table.execute("SELECT count(*) FROM digests").fetchone() == (0,)
    assert stamps == [hashlib.sha256(data).hexdigest() for data in (b"abc", b"abd")]


def test_touching_a_file_changes_nothing(tmp_path: Path) -> None:
    digests, path = FileDigests(tmp_path / "memo"), tmp_path / "file"
    path.write_bytes(b"abc")
    before = digests(path)
    os.utime(path)
    assert digests(path) == before


def test_a_folders_digest_moves_with_it(tmp_path: Path) -> None:
    digests = FileDigests(tmp_path / "memo")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(b"a")
    here, there = ([tmp_path / name / "a"] for name in ("here", "there"))
    assert digests.folder(tmp_path / "here", here) == digests.folder(tmp_path / "there", there)
    (tmp_path / "there" / "a").rename(tmp_path / "there" / "b")
    assert digests.folder(tmp_path / "here", here) != digests.folder(tmp_path / "there", [tmp_path / "there" / "b"])


def test_json_has_one_spelling() -> None:
    assert canonical_json({"b": 1, "a": "ä"}) == '{"a":"ä","b":1}'.encode()
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        digest_json(float("nan"))
