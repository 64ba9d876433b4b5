"""Digests see bytes, never places or times."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from tasks.digests import FileDigests, canonical_json, digest_json


def write_old(path: Path, data: bytes, age_s: float = 60) -> None:
    """A file old enough for its digest to be remembered."""
    path.write_bytes(data)
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_a_digest_is_the_sha256_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests, path = FileDigests(tmp_path / "memo"), tmp_path / "file"
    write_old(path, b"abc")
    assert digests(path) == hashlib.sha256(b"abc").hexdigest()
    monkeypatch.setattr("tasks.digests.digest_file", lambda path: pytest.fail("read again"))
    assert FileDigests(tmp_path / "memo")(path) == hashlib.sha256(b"abc").hexdigest()


def test_a_change_is_seen_by_size_or_time(tmp_path: Path) -> None:
    digests, path = FileDigests(tmp_path / "memo"), tmp_path / "file"
    for data, age_s in ((b"abc", 60), (b"abcd", 60), (b"abce", 50)):
        write_old(path, data, age_s)
        assert digests(path) == hashlib.sha256(data).hexdigest()


def test_a_change_within_the_clocks_tick_is_seen(tmp_path: Path) -> None:
    digests, path = FileDigests(tmp_path / "memo"), tmp_path / "file"
    path.write_bytes(b"abc")
    stat = path.stat()
    digests(path)
    path.write_bytes(b"abd")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests(path) == hashlib.sha256(b"abd").hexdigest()


def test_touching_a_file_changes_nothing(tmp_path: Path) -> None:
    digests, path = FileDigests(tmp_path / "memo"), tmp_path / "file"
    write_old(path, b"abc")
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
