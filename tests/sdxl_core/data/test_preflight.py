"""Figures told before a model is loaded, against counts worked out by hand."""

import json
from pathlib import Path

import pytest

from sdxl_core.config import DatasetConfig, TransformConfig
from sdxl_core.data.preflight import format_summary, preflight, summarise, token_counter
from sdxl_core.data.records import Record
from sdxl_core.data.sources.base import Problem
from sdxl_core.errors import UserError
from tests.sdxl_core.data.conftest import Photo


def record(source: str, width: int = 64, height: int = 64, text: str = "x", concept: str | None = None) -> Record:
    return Record(f"images/{source}", f"digest of {source[0]}", width, height, text, concept, source)


RECORDS = [
    record("a1", 100, 50, "a cat", "cat"),
    record("a2", 100, 50, "a cat", "cat"),
    record("b1", 64, 128, "a dog", "dog"),
    record("b2", 64, 128, "another dog", "dog"),
    record("c1", 40, 400, "a snake"),
]


def test_the_figures_of_a_dataset() -> None:
    summary = summarise(RECORDS, [Problem("bad.png", "the file is empty")], ["b1"])
    assert summary == {
        "pictures": 5,
        "unique_pictures": 3,
        "captions": 4,
        "concepts": {"cat": 2, "dog": 2},
        "width_px": {"min": 40, "median": 64, "max": 100},
        "height_px": {"min": 50, "median": 128, "max": 400},
        "duplicate_pictures": [
            {"sources": ["a1", "a2"], "same_caption": True},
            {"sources": ["b1", "b2"], "same_caption": False},
        ],
        "repeated_captions": [{"text": "a cat", "pictures": 2}],
        "several_frames": ["b1"],
        "left_out": [{"where": "bad.png", "reason": "the file is empty"}],
    }


@pytest.mark.parametrize(
    ("transform", "mode", "each"),
    [
        (TransformConfig(resolution_px=64), "center", 1),
        (TransformConfig(resolution_px=64, flip=True), "center", 2),
        (TransformConfig(resolution_px=64, crop="random", crops_per_image=3, flip=True), "random", 6),
    ],
)
def test_what_the_crops_will_be(transform: TransformConfig, mode: str, each: int) -> None:
    assert summarise(RECORDS, transform=transform)["crops"] == {
        "resolution_px": 64,
        "mode": mode,
        "variants_per_picture": each,
        "training_pictures": 5 * each,
        "enlarged": ["a1", "a2", "c1"],
        "least_kept": {"source": "c1", "share": 0.1},
    }


def test_captions_that_the_text_encoder_cuts() -> None:
    summary = summarise(
        [record("a", text="w " * 75), record("b", text="w " * 76), record("c", text="w " * 76)],
        count_tokens=lambda text: len(text.split()) + 2,
    )
    assert summary["long_captions"] == {
        "limit_tokens": 77,
        "pictures": 2,
        "captions": [{"text": "w " * 76, "tokens": 78}],
    }


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A CLIP tokenizer that knows the letter `a` alone, apart and at a word's end."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    words = ["a", "a</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def test_tokens_are_counted_by_the_clip_tokenizer_with_both_ends(tokenizer: Path) -> None:
    count = token_counter(tokenizer)
    assert [count("a"), count("a a a"), count("aaa a"), count(" ".join("a" * 76))] == [3, 5, 6, 78]


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a CLIP tokenizer"):
        token_counter(tmp_path)


def test_preflight_looks_at_real_files_and_refuses_none(tmp_path: Path, photo: Photo, tokenizer: Path) -> None:
    root = tmp_path / "set"
    photo(root / "a.png", (20, 10)), photo(root / "b.png", (8, 40)), photo(root / "copy.png", (20, 10))
    (root / "bad.png").write_text("<html>")
    (root / "a.txt").write_text("a " * 80), (root / "b.txt").write_text("a"), (root / "copy.txt").write_text("a")
    (root / "bad.txt").write_text("a")
    before = sorted(root.rglob("*"))
    config = DatasetConfig(source="captions", path=str(root))
    summary = preflight(config, TransformConfig(resolution_px=16), tokenizer)
    assert (summary["pictures"], summary["unique_pictures"], summary["captions"]) == (3, 2, 2)
    assert [bad["where"] for bad in summary["left_out"]] == ["bad.png"]
    assert summary["duplicate_pictures"] == [{"sources": ["a.png", "copy.png"], "same_caption": False}]
    assert summary["long_captions"]["pictures"] == 1
    assert summary["crops"]["enlarged"] == ["a.png", "b.png", "copy.png"]
    assert summary["crops"]["least_kept"] == {"source": "b.png", "share": 0.2}
    assert sorted(root.rglob("*")) == before
    assert json.loads(json.dumps(summary)) == summary


def test_the_table_tells_every_finding_and_is_aligned() -> None:
    many = [record(f"{letter}{number}", text="a\ncat") for letter in "ab" for number in range(12)]
    summary = summarise(
        [*RECORDS, *many],
        [Problem("bad.png", "the file is empty")],
        ["b1"],
        TransformConfig(resolution_px=64),
        lambda text: 100 if "snake" in text else 5,
    )
    table = format_summary(summary)
    for part in (
        "29 (3 different)",
        "40 - 100 px, median 64",
        "cat: 2",
        "29 of 64 x 64 px (center, 1 a picture)",
        "10% of c1",
        "3 smaller than 64 px",
        "5 different",
        "24 x a cat",
        "1 pictures; the rest is cut off",
        "100 tokens: a snake",
        "(captions differ)",
        "bad.png: the file is empty",
        "the first frame is used",
    ):
        assert part in table, part
    column = table.index("29 (3")
    assert all(line[column] != " " and line[column - 1] == " " for line in table.splitlines())


def test_long_lists_are_cut_and_an_empty_dataset_has_a_table_too() -> None:
    summary = summarise([record(f"{n}x", 8, 8) for n in range(14)], transform=TransformConfig(resolution_px=64))
    assert "- and 4 more" in format_summary(summary)
    assert format_summary(summarise([], transform=TransformConfig())).startswith("pictures")
