"""Places that calls name: the same files on another machine, from the hub or by way of the store."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.errors import ConfigError
from tasks.remote.places import PLACES, Origin, brought, named_places, origin, replaced
from tasks.stage import Call
from tasks.store import ArtifactStore, StorePlace
from tests.buckets import new_url
from tests.tasks.toy import Plan, write_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ArtifactStore, ArtifactStore]:
    """Of two machines."""
    url = new_url("file", tmp_path)
    one, two = (ArtifactStore.at(StorePlace(str(tmp_path / name), "auto", url)) for name in ("one", "two"))
    return one, two


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def in_hub(folder: Path, repository: str = "some/model") -> Path:
    """A snapshot in a hub's cache, as the hub's library leaves it: links to blobs."""
    repository_folder = folder / f"models--{repository.replace('/', '--')}"
    (repository_folder / "refs").mkdir(parents=True)
    (repository_folder / "refs" / "main").write_text(COMMIT)
    snapshot = repository_folder / "snapshots" / COMMIT
    write_checkpoint(snapshot / "unlinked")
    (repository_folder / "blobs").mkdir()
    for path in sorted((snapshot / "unlinked").rglob("*")):
        if path.is_file():
            blob = repository_folder / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            target = snapshot / path.relative_to(snapshot / "unlinked")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(blob)
            target.symlink_to(os.path.relpath(blob, target.parent))
    return snapshot


def test_a_folder_goes_by_way_of_the_store(stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path) -> None:
    one, two = stores
    write_checkpoint(tmp_path / "sdxl")
    wanted = contents(tmp_path / "sdxl")
    (tmp_path / "sdxl" / "single_file.safetensors").write_bytes(b"an export of the whole, which nobody reads")
    (tmp_path / "sdxl" / "unet" / "model.ckpt").write_bytes(b"a pickle")
    found = origin(tmp_path / "sdxl", one, from_hub=True)
    assert found.artifact is not None and "single_file.safetensors" not in found.files
    there = brought(found, two, "stage toy")
    assert there.is_relative_to(two.root) and contents(there) == wanted
    assert origin(tmp_path / "sdxl", one, from_hub=True) == found, "sent once"


def test_a_file_too(stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path) -> None:
    one, two = stores
    (tmp_path / "face.onnx").write_bytes(b"network")
    (tmp_path / "other.onnx").write_bytes(b"not named")
    there = brought(origin(tmp_path / "face.onnx", one, from_hub=True), two, "stage toy")
    assert there.name == "face.onnx" and there.read_bytes() == b"network" and not there.with_name("other.onnx").exists()


def test_the_hubs_comes_from_the_hub(
    stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same commit, with the same bytes, or not at all."""
    one, two = stores
    here, elsewhere = in_hub(tmp_path / "here"), in_hub(tmp_path / "elsewhere")
    found = origin(here, one, from_hub=True)
    assert (found.repository, found.revision, found.artifact) == ("some/model", COMMIT, None)
    part = origin(here / "vae", one, from_hub=True)
    assert part.inside == "vae" and not list(one.manifests())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert brought(found, two, "stage toy") == elsewhere
    assert brought(part, two, "stage toy") == elsewhere / "vae"
    (elsewhere / "vae" / "config.json").resolve().write_text('{"other": 1}')
    with pytest.raises(ConfigError, match=r"stage toy: config\.json of some/model at 0123456789ab: expected the bytes"):
        brought(part, two, "stage toy")
    gone = found.model_copy(update={"repository": "some/other"})
    with pytest.raises(ConfigError, match=r"cannot get 'some/other' from the hub.*models_from: store"):
        brought(gone, two, "stage toy")


def test_the_hubs_may_go_by_way_of_the_store(stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path) -> None:
    one, two = stores
    here = in_hub(tmp_path / "here")
    found = origin(here, one, from_hub=False)
    assert found.artifact is not None and contents(brought(found, two, "stage toy"))["model_index.json"]


def test_an_empty_place_is_refused(stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="expected files"):
        origin(tmp_path / "empty", stores[0], from_hub=True)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\0b"])
def test_nothing_leads_out_of_its_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="leads out"):
        Origin(files={name: "0" * 64}, is_file=False)
    with pytest.raises(ValidationError, match="leads out"):
        Origin(files={"x": "0" * 64}, is_file=False, inside=name)


def test_pointers() -> None:
    local = {"model": "/m", "vae": None, "files": ["/a", "/b"]}
    found = dict(named_places("images", local))
    assert found == {("model",): Path("/m"), ("files", "0"): Path("/a"), ("files", "1"): Path("/b")}
    assert replaced(local, ("files", "1"), "/c") == {**local, "files": ["/a", "/c"]}
    assert local["files"] == ["/a", "/b"]
    scored = {"scorers": {"weights": {"clip_i": {"places": {"model": "/clip"}, "digests": {"model": "0"}}}}}
    assert dict(named_places("train", scored)) == {("scorers", "weights", "clip_i", "places", "model"): Path("/clip")}


def test_no_place_is_forgotten(plan: Plan) -> None:
    """Of a call that may run elsewhere, every text that is a place of this machine is named as one."""
    seen = set()
    for call in plan("training.adapter={kind: lora, rank: 2}").values():
        kind = call.stage.kind
        if kind in PLACES:
            seen.add(kind)
            named = {pointer for pointer, _ in named_places(kind, call.local)}
            assert named and not {at for at in _existing(call) if at not in named and at[0] != "scorers"}
    assert seen == set(PLACES)


def _existing(call: Call) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()

    def look(value: object, at: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for name, entry in value.items():
                look(entry, (*at, name))
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                look(entry, (*at, str(index)))
        elif isinstance(value, str) and value.startswith("/") and Path(value).exists():
            found.add(at)

    look(dict(call.local), ())
    return found
