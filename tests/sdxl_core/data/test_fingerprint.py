"""A dataset's fingerprint is a function of names and bytes, and of nothing else."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from sdxl_core.config import DatasetConfig
from sdxl_core.data.fingerprint import dataset_fingerprint
from sdxl_core.errors import UserError
from tests.sdxl_core.data.conftest import BUILDERS
from tests.sdxl_core.data.pair_sets import CHOICES, as_folder, as_parquet

Build = Callable[[str, Path], DatasetConfig]
PAIRS: dict[str, Callable[..., DatasetConfig]] = {"pairs": as_folder, "pairs-parquet": as_parquet}


@pytest.fixture(params=[*BUILDERS, *PAIRS])
def local_source(request: pytest.FixtureRequest) -> str:
    """Each source that reads local files, those of pairs too."""
    return str(request.param)


@pytest.fixture
def build() -> Build:
    return lambda source, root: PAIRS[source](root, CHOICES) if source in PAIRS else BUILDERS[source](root)


def digests(paths: Iterable[Path]) -> Iterator[str]:
    return (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def fingerprint(config: DatasetConfig) -> str:
    return dataset_fingerprint(config, digests)


def test_place_and_time_do_not_matter(local_source: str, build: Build, tmp_path: Path) -> None:
    here = build(local_source, tmp_path / "here")
    before = fingerprint(here)
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere/there")
    for path in (tmp_path / "elsewhere/there").rglob("*"):
        os.utime(path, (1, 1))
    there = here.model_copy(update={"path": str(tmp_path / "elsewhere/there")})
    assert fingerprint(there) == fingerprint(here) == before


def test_any_byte_of_any_file_and_any_name_matters(local_source: str, build: Build, tmp_path: Path) -> None:
    config = build(local_source, tmp_path / "set")
    seen = {fingerprint(config)}
    files = sorted(path for path in (tmp_path / "set").rglob("*") if path.is_file())
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        seen.add(fingerprint(config))
        path.write_bytes(whole)
    pictures = [path for path in files if path.suffix in (".png", ".parquet")]
    for path in pictures:
        renamed = path.rename(path.with_stem(path.stem + "-renamed"))
        seen.add(fingerprint(config))
        renamed.rename(path)
    for path in pictures:
        moved = path.rename(path.with_suffix(".away"))
        seen.add(fingerprint(config))
        moved.rename(path)
    assert len(seen) == 1 + len(files) + 2 * len(pictures)


def test_files_that_are_not_read_do_not_matter(local_source: str, build: Build, tmp_path: Path) -> None:
    config = build(local_source, tmp_path / "set")
    before = fingerprint(config)
    (tmp_path / "set/notes.md").write_text("notes")
    (tmp_path / "set/.DS_Store").write_text("junk")
    assert fingerprint(config) == before


def test_swapping_two_pictures_or_two_captions_matters(build: Build, tmp_path: Path) -> None:
    config = build("captions", tmp_path / "set")
    before = fingerprint(config)
    for suffix in (".png", ".txt"):
        ann, bob = tmp_path / f"set/ann{suffix}", tmp_path / f"set/people/bob{suffix}"
        first, second = ann.read_bytes(), bob.read_bytes()
        ann.write_bytes(second), bob.write_bytes(first)
        assert fingerprint(config) != before
        ann.write_bytes(first), bob.write_bytes(second)
    assert fingerprint(config) == before


@pytest.mark.parametrize(("source", "column"), [("imagefolder", "file_name"), ("pairs", "rejected_file_name")])
def test_a_file_that_only_metadata_names_matters(build: Build, tmp_path: Path, source: str, column: str) -> None:
    config = build(source, tmp_path / "set")
    with (tmp_path / "set/metadata.jsonl").open("a") as file:
        file.write("\n" + json.dumps({column: "scan.img", "text": "x"}))
    (tmp_path / "set/scan.img").write_bytes(b"1")
    before = fingerprint(config)
    (tmp_path / "set/scan.img").write_bytes(b"2")
    assert fingerprint(config) != before


def test_a_hub_dataset_is_its_id_split_and_commit() -> None:
    def never(paths: Iterable[Path]) -> Iterator[str]:
        raise AssertionError("no file of a pinned hub dataset needs reading")

    base = DatasetConfig(source="hub", path="someone/pictures", revision="0" * 40)
    changes = [{}, {"path": "someone/else"}, {"split": "test"}, {"revision": "1" * 40}]
    assert len({dataset_fingerprint(base.model_copy(update=change), never) for change in changes}) == len(changes)


def test_a_branch_that_moved_is_another_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unpinned revision is asked for anew each time, so a scheduled run sees what was pushed since."""
    from types import SimpleNamespace

    from huggingface_hub import HfApi

    head, asked = ["1" * 40], []

    def dataset_info(self: HfApi, repo: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        asked.append((repo, revision))
        return SimpleNamespace(sha=head[0])

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    for revision in (None, "main"):
        config = DatasetConfig(source="hub", path="someone/pictures", revision=revision)
        head[0] = "1" * 40
        before = fingerprint(config)
        assert fingerprint(config) == before == fingerprint(config.model_copy(update={"revision": "1" * 40}))
        head[0] = "2" * 40
        assert fingerprint(config) != before
    assert asked == [("someone/pictures", None)] * 3 + [("someone/pictures", "main")] * 3


def test_an_unpinned_hub_dataset_cannot_be_identified_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"Set dataset\.revision to a commit"):
        fingerprint(DatasetConfig(source="hub", path="someone/pictures", revision="main"))


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    """Whatever the metadata name, and wherever links lead."""
    root, seen = tmp_path / "set", list[Path]()
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "ok.png").write_bytes(b"ok")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "linked").symlink_to(tmp_path)
    names = ["ok.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "linked/secret.png", "a\0.png"]
    columns = ("file_name", "preferred_file_name", "rejected_file_name")
    (root / "metadata.jsonl").write_text("".join(json.dumps(dict.fromkeys(columns, name)) + "\n" for name in names))

    def noted(paths: Iterable[Path]) -> Iterator[str]:
        for path in paths:
            seen.append(path.resolve())
            yield from digests([path])

    for source in ("imagefolder", "prompt", "captions", "pairs"):
        dataset_fingerprint(DatasetConfig.model_validate({"source": source, "path": str(root)}), noted)
    assert {path.name for path in seen} == {"ok.png", "metadata.jsonl"}
    assert all(path.is_relative_to(root.resolve()) for path in seen)
