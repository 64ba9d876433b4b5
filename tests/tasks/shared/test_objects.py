"""Laws of objects below a URL, on every kind of place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks.errors import StoreAway
from tasks.shared.objects import MARKER, Objects


@pytest.fixture
def objects(url: str) -> Objects:
    return Objects(url)


def test_what_is_written_is_read(objects: Objects) -> None:
    objects.write("a/b", b"one")
    objects.write("a/b", b"two")
    assert objects.read("a/b") == b"two" and objects.read("a/c") is None
    assert objects.read_part("a/b", 1, 3) == b"wo" and objects.read_part("a/c", 0, 1) is None
    objects.write("empty", b"")
    assert objects.read("empty") == b""


def test_one_of_many_creates(objects: Objects) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: objects.create("a/once", b"%d" % number), range(24)))
    assert made.count(True) == 1
    assert objects.read("a/once") == b"%d" % made.index(True)


def test_listings(objects: Objects) -> None:
    for name, data in {"a/b/1": b"1", "a/b/22": b"22", "a/c": b"333", "ab/d": b""}.items():
        objects.write(name, data)
    assert objects.sizes("a") == {"a/b/1": 1, "a/b/22": 2, "a/c": 3}
    assert objects.listed("a") == ["a/b", "a/c"] and objects.listed("") == ["a", "ab", MARKER]
    assert objects.sizes("none") == {} and objects.listed("none") == []
    assert set(objects.modified("a")) == {"a/b/1", "a/b/22", "a/c"}
    assert objects.read_all(["a/c", "a/none", "ab/d"]) == {"a/c": b"333", "ab/d": b""}


def test_what_is_removed_is_gone(objects: Objects) -> None:
    for name, data in {"a/b": b"1", "a/c": b"2"}.items():
        objects.write(name, data)
    objects.remove(["a/b", "a/never"])
    assert objects.sizes("a") == {"a/c": 1}
    assert objects.create("a/b", b"again")


def test_a_store_is_opened_again_and_another_versions_is_not(url: str) -> None:
    first = Objects(url)
    Objects(url)
    first.write(MARKER, b'{"format": 2}')
    with pytest.raises(UserError, match="a store of this version"):
        Objects(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/place", "expected a URL of .*s3"),
        ("s3://key:secret@bucket/place", "no credentials"),
        ("s3://bucket/place?X-Amz-Signature=abc", r"\? and #"),
        ("gs://bucket/place", r"sdxl-flows\[gcs\]"),
    ],
)
def test_places_that_cannot_be_shared(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Objects(url)
    assert "secret" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_named(server: str) -> None:
    with pytest.raises(UserError, match="a bucket or folder that is there"):
        Objects("s3://no-such-bucket/place")


@pytest.mark.ci
def test_a_server_that_is_away_may_come_back(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    with pytest.raises(StoreAway, match="cannot be reached"):
        Objects("s3://bucket/away")


def test_who_may_only_read_can_open_a_store(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Objects(file_url).write("a", b"1")
    monkeypatch.setattr("tempfile.mkstemp", lambda **_: pytest.fail("written"))
    assert Objects(file_url).read("a") == b"1"


def test_a_server_that_replaces_what_should_be_created_is_refused(
    file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", lambda source, target: Path(target).write_bytes(Path(source).read_bytes()))
    with pytest.raises(UserError, match="keeps conditions of writing"):
        Objects(file_url)
