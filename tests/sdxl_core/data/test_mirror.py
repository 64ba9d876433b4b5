"""Laws of mirrors, on the file systems of fsspec that need no network: memory and local."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from sdxl_core.config import DatasetConfig
from sdxl_core.data import mirror as mirroring
from sdxl_core.data import remote
from sdxl_core.data.mirror import Mirror, mirror
from sdxl_core.errors import UserError

PICTURES = {"a.png": b"aaa", "deep/b.png": b"bb", "metadata.jsonl": b"{}"}
_NUMBERS = count()


class Bucket:
    """Objects in memory, and the mirror of a folder of them."""

    def __init__(self, home: Path) -> None:
        self.system = fsspec.filesystem("memory")
        self.name = f"/bucket{next(_NUMBERS)}"
        self.url, self.home = f"memory://{self.name[1:]}/pictures", home
        self.home.mkdir()

    def put(self, name: str, content: bytes) -> None:
        self.system.pipe(f"{self.name}/pictures/{name}", content)

    def mirror(self) -> Mirror:
        return mirror(self.url, self.home, "dataset.path", lambda done, total, note: None)

    def files(self) -> dict[str, bytes]:
        folder = self.home / "files/pictures"
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    made = Bucket(tmp_path / "home")
    for name, content in PICTURES.items():
        made.put(name, content)
    yield made
    if made.system.exists(made.name):
        made.system.rm(made.name, recursive=True)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of objects, as they are read."""
    read: list[str] = []
    plain = MemoryFileSystem.get_file

    def get_file(self: MemoryFileSystem, key: str, place: str, **kwargs: Any) -> None:
        read.append(key.rpartition("/")[2])
        plain(self, key, place, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    return read


def test_a_mirror_holds_what_is_there_and_reads_nothing_twice(bucket: Bucket, reads: list[str]) -> None:
    found = bucket.mirror()
    assert (found.path, found.read, found.kept) == (bucket.home / "files/pictures", 3, 0)
    assert bucket.files() == PICTURES
    del reads[:]
    assert bucket.mirror() == Mirror(found.path, kept=3, read=0, removed=0)
    assert reads == []


def test_one_listing_is_all_that_an_unchanged_bucket_costs(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.mirror()
    listings: list[str] = []
    plain = MemoryFileSystem.find

    def find(self: MemoryFileSystem, place: str, **kwargs: Any) -> Any:
        listings.append(place)
        return plain(self, place, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "find", find)
    bucket.mirror()
    assert listings == [f"{bucket.name}/pictures"]


def test_what_changed_came_or_went_there_does_so_here(bucket: Bucket, reads: list[str]) -> None:
    bucket.mirror()
    del reads[:]
    bucket.put("a.png", b"AAA")  # of the same size
    bucket.put("new.png", b"n")
    bucket.system.rm(f"{bucket.name}/pictures/deep/b.png")
    found = bucket.mirror()
    assert sorted(reads) == ["a.png", "new.png"] and (found.kept, found.removed) == (1, 1)
    assert bucket.files() == {"a.png": b"AAA", "new.png": b"n", "metadata.jsonl": b"{}"}
    assert not (bucket.home / "files/pictures/deep").exists()


def test_a_file_takes_the_place_of_a_folder_and_the_other_way_round(bucket: Bucket) -> None:
    bucket.mirror()
    bucket.system.rm(f"{bucket.name}/pictures/deep", recursive=True)
    bucket.system.rm(f"{bucket.name}/pictures/a.png")
    bucket.put("deep", b"now a file")
    bucket.put("a.png/c.png", b"now a folder")
    bucket.mirror()
    assert bucket.files() == {"deep": b"now a file", "a.png/c.png": b"now a folder", "metadata.jsonl": b"{}"}


@pytest.mark.parametrize("harm", ["changed", "gone", "foreign", "link", "index gone", "index torn"])
def test_what_was_done_to_the_mirror_itself_is_mended(bucket: Bucket, tmp_path: Path, harm: str) -> None:
    folder = bucket.mirror().path
    if harm == "changed":
        (folder / "a.png").write_bytes(b"xxx")
    elif harm == "gone":
        (folder / "a.png").unlink()
    elif harm == "foreign":
        (folder / "deep/foreign.png").write_bytes(b"f")
    elif harm == "link":
        (tmp_path / "outside").write_bytes(b"aaa")
        (folder / "a.png").unlink()
        (folder / "a.png").symlink_to(tmp_path / "outside")
    elif harm == "index gone":
        (bucket.home / "index.jsonl").unlink()
    else:
        with (bucket.home / "index.jsonl").open("rb+") as index:
            index.truncate(index.seek(0, os.SEEK_END) - 9)
    bucket.mirror()
    assert bucket.files() == PICTURES and not (folder / "a.png").is_symlink()
    assert bucket.mirror().read == 0


def test_an_interrupted_mirroring_goes_on_with_what_is_missing(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    monkeypatch.setattr(mirroring, "_READERS", 1)

    def stop(done: int, total: int, note: str) -> None:
        assert (done, total) == (1, 3) and note.endswith("MB/s")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mirror(bucket.url, bucket.home, "dataset.path", stop)
    del reads[:]
    assert bucket.mirror().kept >= 1
    assert "a.png" not in reads and bucket.files() == PICTURES


def test_no_file_is_ever_there_in_part(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: MemoryFileSystem, key: str, place: str, **kwargs: Any) -> None:
        Path(place).write_bytes(self.cat(key)[:1])
        raise OSError("connection lost")

    monkeypatch.setattr(MemoryFileSystem, "get_file", half)
    with pytest.raises(UserError, match=r"dataset\.path memory://.*connection lost"):
        bucket.mirror()
    assert bucket.files() == {}


def test_an_object_that_changes_while_it_is_read_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def longer(self: MemoryFileSystem, key: str, place: str, **kwargs: Any) -> None:
        Path(place).write_bytes(self.cat(key) + b"more")

    monkeypatch.setattr(MemoryFileSystem, "get_file", longer)
    with pytest.raises(UserError, match="run again"):
        bucket.mirror()
    assert bucket.files() == {}


def test_an_empty_listing_takes_nothing_away(bucket: Bucket) -> None:
    bucket.mirror()
    for name in PICTURES:
        bucket.system.rm(f"{bucket.name}/pictures/{name}")
    with pytest.raises(UserError, match=r"got none; is the name right\?"):
        bucket.mirror()
    assert bucket.files() == PICTURES


def test_hidden_objects_and_folder_marks_are_left_out(bucket: Bucket) -> None:
    for name in (".DS_Store", "deep/.cache/x.png", "__MACOSX/a.png"):
        bucket.put(name, b"x")
    bucket.mirror()
    assert bucket.files() == PICTURES


class Listed(MemoryFileSystem):
    """A file system that lists what it is told to."""

    protocol = "listed"
    cachable = False
    names: tuple[str, ...] = ()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("listed://").lstrip("/")

    def find(self, path: str, **kwargs: Any) -> dict[str, dict[str, Any]]:
        return {name: {"name": name, "size": 1, "type": "file", "ETag": "e"} for name in self.names}

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        raise AssertionError("nothing is read before all names are known to be safe")


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    fsspec.register_implementation("listed", Listed, clobber=True)

    def names(*keys: str) -> None:
        monkeypatch.setattr(Listed, "names", keys)
        (tmp_path / "home").mkdir(exist_ok=True)
        mirror("listed://b/p", tmp_path / "home", "dataset.path", lambda done, total, note: None)

    return names


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("/b/p/../../../etc/x.png", "leaves the dataset's folder"),
        ("/b/p/a/../x.png", "leaves the dataset's folder"),
        ("/b/p//etc/x.png", "leaves the dataset's folder"),
        ("/b/p/a//x.png", "an empty part"),
        ("/b/p/./x.png", "an empty part"),
        ("/b/p/C:\\x.png", "a Windows path"),
        ("/b/p/a\0b.png", "not text"),
        ("/b/p/\udce4.png", "not text"),
        ("/b/other/x.png", "lies outside"),
        ("/b/p/" + "x" * 300, "longer than 255 bytes"),
        ("/b/p/fine.png/inner.png", "an object where others have a folder"),
    ],
)
def test_no_key_leads_out_of_the_mirror(listed: Callable[..., None], tmp_path: Path, key: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        listed("/b/p/fine.png", key)
    assert not any((tmp_path / "home").iterdir())


def test_too_many_objects_are_refused(listed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_OBJECTS", 2)
    with pytest.raises(UserError, match=r"at most 2 objects, got 3\. Pack"):
        listed("/b/p/1", "/b/p/2", "/b/p/3")


def test_room_is_asked_for_before_anything_is_read(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdxl_core.disk.free_bytes", lambda folder: 5)
    with pytest.raises(UserError, match="the mirror of memory://"):
        bucket.mirror()


def test_a_url_of_one_file_is_that_file(bucket: Bucket, reads: list[str]) -> None:
    def found() -> Mirror:
        return mirror(f"{bucket.url}/deep/b.png", bucket.home, "dataset.path", lambda done, total, note: None)

    assert found().path.read_bytes() == b"bb" and found().path.name == "b.png"
    assert reads == ["b.png"]


def test_local_folders_have_urls_too_and_their_links_are_refused(tmp_path: Path) -> None:
    folder, home = tmp_path / "pictures", tmp_path / "home"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a.png").write_bytes(b"abc")
    home.mkdir()

    def found() -> Mirror:
        return mirror(f"file://{folder}", home, "dataset.path", lambda done, total, note: None)

    assert (found().path / "deep/a.png").read_bytes() == b"abc"
    assert found().read == 0
    (folder / "deep/a.png").write_bytes(b"ABC")
    assert found().read == 1
    (folder / "link.png").symlink_to(tmp_path)
    (folder / "link.txt").symlink_to(folder / "deep/a.png")
    with pytest.raises(UserError, match=r"'link.txt': a link"):
        found()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://key:secret@bucket/pictures", "holds no credentials"),
        ("gs://bucket/pictures?X-Signature=secret", "nor a signature"),
        ("s3://", "expected a bucket"),
        ("simplecache::s3://bucket/x", "one inside another"),
        ("s3://bucket/../other", r"without `\.\.`"),
    ],
)
def test_a_url_is_checked_with_the_configuration(url: str, reason: str) -> None:
    for setting in ("path", "validation_path"):
        with pytest.raises(ValueError, match=f"{setting}: .*{reason}"):
            DatasetConfig.model_validate({"path": "./here", setting: url})


@pytest.mark.parametrize("source", ["hub", "pairs-hub", "drawn"])
def test_a_source_that_is_no_folder_has_no_url(source: str) -> None:
    drawn = {"drawn": {}} if source == "drawn" else {}
    with pytest.raises(ValueError, match="got a URL"):
        DatasetConfig.model_validate({"source": source, "path": "s3://bucket/x", **drawn})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3n://bucket/x", r"a scheme that fsspec knows, got s3n://\. Did you mean 's3'\?"),
        ("memory://nowhere/at/all", "got none; is the name right"),
    ],
)
def test_what_cannot_be_found_is_named(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        mirror(url, tmp_path, "dataset.path", lambda done, total, note: None)


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(UserError, match=r"pip install 'sdxl-flows\[s3\]'"):
        mirror("s3://bucket/x", tmp_path, "dataset.path", lambda done, total, note: None)


def test_a_time_tells_versions_apart_only_without_a_digest() -> None:
    assert LocalFileSystem.protocol[0] == "file"
    one = remote._remote("k", {"size": 3, "ETag": "x", "LastModified": 1})
    assert one == remote._remote("k", {"size": 3, "ETag": "x", "LastModified": 2})
    assert one != remote._remote("k", {"size": 3, "ETag": "y", "LastModified": 1})
    assert remote._remote("k", {"size": 3, "mtime": 1}) != remote._remote("k", {"size": 3, "mtime": 2})
    assert remote._remote("k", {"size": 3}).stamp == ""  # nothing to go by: read every time
