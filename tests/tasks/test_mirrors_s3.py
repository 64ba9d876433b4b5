"""Mirrors of a real S3 server, in this process. Needs moto and s3fs, which the extra `dev` has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sdxl_core.config import DatasetConfig
from sdxl_core.data.mirror import Mirror, mirror
from sdxl_core.errors import UserError
from tasks.mirrors import found_here
from tasks.store import ArtifactStore

pytest.importorskip("s3fs", reason="the extra `dev` has it")
moto_server = pytest.importorskip("moto.server", reason="the extra `dev` has it")
pytestmark = pytest.mark.slow
OBJECTS = 200


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    import boto3

    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (variables | {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}).items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()


def mirrored(home: Path, place: str = "pictures") -> Mirror:
    home.mkdir(exist_ok=True)
    return mirror(f"s3://bucket/{place}", home, "dataset.path", lambda done, total, note: None)


def test_a_bucket_is_mirrored_once_and_then_listed(s3: object, tmp_path: Path) -> None:
    contents = {f"{number % 7}/{number}.txt": b"%d" % number * 100 for number in range(OBJECTS)}
    for name, content in contents.items():
        s3.put_object(Bucket="bucket", Key=f"pictures/{name}", Body=content)
    s3.put_object(Bucket="bucket", Key="pictures/", Body=b"")  # what consoles write for a folder
    s3.put_object(Bucket="bucket", Key="pictures-of-others/x.txt", Body=b"x")
    found = mirrored(tmp_path / "home")
    assert found.read == OBJECTS
    files = {path.relative_to(found.path).as_posix(): path.read_bytes() for path in found.path.rglob("*.txt")}
    assert files == contents
    assert (mirrored(tmp_path / "home").kept, mirrored(tmp_path / "home").read) == (OBJECTS, 0)
    s3.put_object(Bucket="bucket", Key="pictures/0/0.txt", Body=b"9" * 100)  # of the same size
    s3.delete_object(Bucket="bucket", Key="pictures/1/1.txt")
    changed = mirrored(tmp_path / "home")
    assert (changed.read, changed.removed) == (1, 1)
    assert (found.path / "0/0.txt").read_bytes() == b"9" * 100 and not (found.path / "1/1.txt").exists()


def test_a_file_of_a_bucket_is_a_file_here(s3: object, tmp_path: Path) -> None:
    s3.put_object(Bucket="bucket", Key="tables/all.parquet", Body=b"PAR1")
    assert mirrored(tmp_path / "home", "tables/all.parquet").path.read_bytes() == b"PAR1"


@pytest.mark.parametrize("place", ["nothing/here", "../other"])
def test_what_is_not_there_is_named(s3: object, tmp_path: Path, place: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.path s3://bucket"):
        mirrored(tmp_path / "home", place)


def test_no_secret_is_told_where_the_bucket_cannot_be_read(
    s3: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    with pytest.raises(UserError, match=r"objects that can be read|got none") as caught:
        found_here(DatasetConfig(path="s3://no-such-bucket/x"), ArtifactStore(tmp_path / "store"))
    assert "hush" not in str(caught.value)
