"""A store that lies on the network is known as such, and treated so."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdxl_core.disk import file_sha256
from tasks.errors import StoreError
from tasks.file_systems import file_system, is_remote
from tasks.store import ArtifactStore


def test_a_shared_store_keeps_no_database_on_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDXL_FLOWS_STORE_REMOTE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture = tmp_path / "picture"
    picture.write_bytes(b"abc")
    store = ArtifactStore(tmp_path / "store")
    assert store.digest_file(picture) == file_sha256(picture)
    assert not list(store.root.rglob("*.sqlite*")) and list((tmp_path / "cache").rglob("digests-*.sqlite"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(picture))
    with pytest.raises(StoreError, match="XDG_CACHE_HOME"):
        ArtifactStore(tmp_path / "store")


@pytest.mark.parametrize(
    ("folder", "kind", "remote"),
    [
        ("/", "ext4", False),
        ("/data/a", "ext4", False),
        ("/mnt/big disk/x", "nfs4", True),
        ("/mnt/bucket", "fuse.s3fs", True),
    ],
)
def test_network_file_systems_are_known_by_the_kernels_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, kind: str, remote: bool
) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/a / ext4 rw 0 0\nhost:/x /data nfs4 rw 0 0\n/dev/b /data ext4 rw 0 0\n"
        "host:/big /mnt/big\\040disk nfs4 rw 0 0\ns3fs /mnt/bucket fuse.s3fs rw 0 0\n"
    )
    monkeypatch.setattr("tasks.file_systems._MOUNTS", table)
    assert (file_system(Path(folder)), is_remote(Path(folder))) == (kind, remote)


def test_this_machines_own_table_is_read(tmp_path: Path) -> None:
    assert file_system(tmp_path) != ""
