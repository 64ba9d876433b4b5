"""make-metadata writes a list that the imagefolder source reads, and loses nobody's captions."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sdxl_core.config import DatasetConfig
from sdxl_core.data.metadata import make_metadata
from sdxl_core.data.prepare import prepare_dataset
from sdxl_core.data.records import read_records
from sdxl_core.errors import UserError
from tests.sdxl_core.data.conftest import Photo


@pytest.fixture
def folder(tmp_path: Path, photo: Photo) -> Path:
    root = tmp_path / "set"
    photo(root / "b.png"), photo(root / "sub/a.png", (3, 3)), photo(root / ".hidden.png")
    (root / "notes.txt").write_text("no picture")
    return root


def lines(folder: Path) -> list[dict[str, str]]:
    written = (folder / "metadata.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in written if line]


@pytest.mark.parametrize("columns", [("file_name", "text"), ("image_path", "prompt")])
def test_what_is_written_is_a_dataset(folder: Path, tmp_path: Path, columns: tuple[str, str]) -> None:
    image, caption = columns
    assert make_metadata(folder, " café ", image_column=image, caption_column=caption) == {"kept": 0, "added": 2}
    assert lines(folder) == [{image: "b.png", caption: "café"}, {image: "sub/a.png", caption: "café"}]
    prepare_dataset(DatasetConfig(path=str(folder), image_column=image, caption_column=caption), tmp_path / "out")
    assert [(r.source, r.text) for r in read_records(tmp_path / "out")] == [("b.png", "café"), ("sub/a.png", "café")]


def test_an_existing_file_is_never_overwritten_unasked(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text("my captions")
    with pytest.raises(UserError, match=r"--extend keeps them and adds .* --overwrite replaces them"):
        make_metadata(folder, "x")
    assert (folder / "metadata.jsonl").read_text() == "my captions"
    assert make_metadata(folder, "x", overwrite=True) == {"kept": 0, "added": 2}
    assert [line["text"] for line in lines(folder)] == ["x", "x"]


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_extending_keeps_lines_byte_for_byte_and_adds_the_rest(folder: Path, photo: Photo, end: str) -> None:
    mine = '{"text":  "my \\u2603 caption", "file_name": "./sub/a.png", "note": 1}' + end
    (folder / "metadata.jsonl").write_text(mine)
    assert make_metadata(folder, "x", extend=True) == {"kept": 1, "added": 1}
    assert (folder / "metadata.jsonl").read_text().startswith(mine)
    assert lines(folder)[-1] == {"file_name": "b.png", "text": "x"}
    before = (folder / "metadata.jsonl").read_bytes()
    assert make_metadata(folder, "y", extend=True) == {"kept": 2, "added": 0}
    assert (folder / "metadata.jsonl").read_bytes() == before
    photo(folder / "c.png")
    assert make_metadata(folder, "z", extend=True) == {"kept": 2, "added": 1}
    assert lines(folder)[-1] == {"file_name": "c.png", "text": "z"}


def test_extending_what_is_not_there_writes_it(folder: Path) -> None:
    assert make_metadata(folder, "x", extend=True) == {"kept": 0, "added": 2}


def test_extending_a_file_that_cannot_be_understood_leaves_it(folder: Path) -> None:
    for content, message in (("{broken", "metadata.jsonl:1: not JSON"), ('{"name": "b.png"}', "image_column")):
        (folder / "metadata.jsonl").write_text(content)
        with pytest.raises(UserError, match=message):
            make_metadata(folder, "x", extend=True)
        assert (folder / "metadata.jsonl").read_text() == content


def crash(*_: object) -> None:
    raise OSError("the disk is gone")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_crash_leaves_the_old_file_and_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    make_metadata(folder, "old")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.setattr(os, broken, crash)
    with pytest.raises(OSError, match="the disk is gone"):
        make_metadata(folder, "new", overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_files_mode_is_kept(folder: Path) -> None:
    make_metadata(folder, "x")
    assert (folder / "metadata.jsonl").stat().st_mode & 0o777 == 0o644
    (folder / "metadata.jsonl").chmod(0o600)
    make_metadata(folder, "y", overwrite=True)
    assert (folder / "metadata.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: make_metadata(folder, " "), "--prompt: expected a caption"),
        (lambda folder: make_metadata(folder / "nowhere", "x"), "expected a folder"),
        (lambda folder: make_metadata(folder.parent / "bare", "x"), "expected pictures, got none"),
        (lambda folder: make_metadata(folder, "x", extend=True, overwrite=True), "choose one"),
    ],
)
def test_what_cannot_be_done_is_said(folder: Path, call: Callable[[Path], object], message: str) -> None:
    (folder.parent / "bare").mkdir()
    with pytest.raises(UserError, match=message):
        call(folder)


def test_links_out_of_the_folder_are_named_not_listed(folder: Path, photo: Photo) -> None:
    photo(folder.parent / "secret.png")
    os.symlink(folder.parent / "secret.png", folder / "link.png")
    with pytest.raises(UserError, match=r"link\.png: a link that leaves"):
        make_metadata(folder, "x")
    assert not (folder / "metadata.jsonl").exists()
