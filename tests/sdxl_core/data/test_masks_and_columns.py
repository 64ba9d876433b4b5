"""Masks, concepts and face boxes on their way into the dataset artifact, and what is said where they do not fit."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from pydantic import ValidationError

from sdxl_core.config import DatasetConfig
from sdxl_core.data.fingerprint import dataset_fingerprint
from sdxl_core.data.masks import read_mask
from sdxl_core.data.prepare import prepare_dataset
from sdxl_core.data.records import read_records
from sdxl_core.errors import UserError
from tests.sdxl_core.data.conftest import CAPTIONS, Photo, png

Build = Callable[[str, Path], DatasetConfig]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def grey(path: Path, size: tuple[int, int] = (6, 4), level: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size, 0)
    image.paste(level, (0, 0, size[0] // 2, size[1]))
    image.save(path)


@pytest.fixture
def masked(build: Build, tmp_path: Path) -> DatasetConfig:
    """Three captioned pictures of 6, 7 and 8 x 4 px, and their masks: the left half, in three formats."""
    config = build("captions", tmp_path / "set")
    for (name, width), suffix in zip(
        {"ann": 6, "people/bob": 7, "people/cleo": 8}.items(), ("png", "bmp", "webp"), strict=True
    ):
        grey(tmp_path / "masks" / f"{name}.{suffix}", (width, 4))
    return config.model_copy(update={"masks": str(tmp_path / "masks")})


def test_masks_are_kept_by_digest_beside_their_pictures(masked: DatasetConfig, tmp_path: Path) -> None:
    prepare_dataset(masked, tmp_path / "out")
    records = read_records(tmp_path / "out")
    assert [record.source for record in records] == [*CAPTIONS]
    for record in records:
        assert record.mask is not None
        kept = tmp_path / "out" / record.mask
        assert kept.name.split(".")[0] == digest(kept) and kept.parent.name == "masks"
        mask_HW = np.asarray(read_mask(tmp_path / "out", record))
        assert mask_HW.shape == (record.height, record.width)
        half = record.width // 2
        assert bool((mask_HW[:, :half] > 250).all()) and bool((mask_HW[:, half:] < 5).all())


def test_a_mask_edited_is_another_dataset(masked: DatasetConfig, tmp_path: Path) -> None:
    digests = partial(map, digest)
    before = dataset_fingerprint(masked, digests)
    without = masked.model_copy(update={"masks": None})
    assert dataset_fingerprint(without, digests) != before
    (tmp_path / "masks").rename(tmp_path / "elsewhere")
    moved = masked.model_copy(update={"masks": str(tmp_path / "elsewhere")})
    assert dataset_fingerprint(moved, digests) == before
    grey(tmp_path / "elsewhere" / "ann.png", level=254)
    assert dataset_fingerprint(moved, digests) != before


def test_masks_may_lie_in_a_folder_of_the_dataset(masked: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "masks").rename(tmp_path / "set" / "masks")
    inside = masked.model_copy(update={"masks": str(tmp_path / "set" / "masks")})
    assert prepare_dataset(inside, tmp_path / "out")["pictures"] == 3
    with pytest.raises(UserError, match=r"dataset\.masks: expected another folder"):
        prepare_dataset(masked.model_copy(update={"masks": masked.path}), tmp_path / "again")


def with_transparency(path: Path) -> None:
    Image.new("LA", (6, 4), (255, 100)).save(path)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, r"ann\.png: expected one mask ann\.\* in dataset\.masks, there is none"),
    "twice": (lambda path: grey(path.with_suffix(".bmp")), r"ann\.bmp and ann\.png are all of that name"),
    "of another size": (lambda path: grey(path, (12, 8)), r"mask ann\.png: 12 x 8 px, and its picture 6 x 4 px"),
    "black": (lambda path: grey(path, level=0), r"mask ann\.png: the mask leaves nothing"),
    "no picture": (lambda path: path.write_text("<html>"), r"mask ann\.png: a web page"),
    "transparent": (with_transparency, r"mask ann\.png: has transparency itself"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_picture_without_a_fitting_mask_is_named(masked: DatasetConfig, tmp_path: Path, how: str) -> None:
    spoil, message = SPOILT[how]
    spoil(tmp_path / "masks" / "ann.png")
    with pytest.raises(UserError, match=message):
        prepare_dataset(masked, tmp_path / "out")
    skipping = masked.model_copy(update={"on_bad_image": "skip", "max_bad_share": 0.5})
    assert prepare_dataset(skipping, tmp_path / "out")["pictures"] == 2


def test_an_alpha_channel_is_a_mask_of_its_picture(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    picture = Image.new("RGBA", (6, 4), (200, 30, 60, 255))
    picture.paste((200, 30, 60, 40), (3, 0, 6, 4))
    picture.save(tmp_path / "set" / "a.png")
    config = DatasetConfig(source="prompt", path=str(tmp_path / "set"), prompt="x", masks="alpha")
    prepare_dataset(config, tmp_path / "out")
    (record,) = read_records(tmp_path / "out")
    assert record.mask == record.image
    mask_HW = np.asarray(read_mask(tmp_path / "out", record))
    assert bool((mask_HW[:, :3] == 255).all()) and bool((mask_HW[:, 3:] == 40).all())
    for name, mode, reason in (("opaque.png", "RGB", "no transparency"), ("nothing.png", "RGBA", "leaves nothing")):
        (tmp_path / "set" / "a.png").unlink(missing_ok=True)
        Image.new(mode, (6, 4)).save(tmp_path / "set" / name)
        with pytest.raises(UserError, match=rf"{name}: .*{reason}"):
            prepare_dataset(config, tmp_path / name)
        (tmp_path / "set" / name).unlink()


def test_a_record_without_a_mask_is_named_when_one_is_asked(build: Build, tmp_path: Path) -> None:
    prepare_dataset(build("captions", tmp_path / "set"), tmp_path / "out")
    with pytest.raises(UserError, match=r"ann\.png: expected a mask, got none"):
        read_mask(tmp_path / "out", read_records(tmp_path / "out")[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masks": "masks"}, "begins with ./"),
        ({"masks": "./masks", "source": "parquet"}, "use alpha"),
        ({"face_box_column": "box", "source": "captions"}, "face_box_column needs a source with columns"),
        ({"concept_column": "c", "source": "concepts"}, "concept_column needs a source with columns"),
    ],
)
def test_settings_that_a_source_cannot_have_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetConfig.model_validate({"path": "./x", **settings})


# --- columns ---

ROWS = [
    {"text": "ann", "who": "ann", "box": [1, 1, 3, 3]},
    {"text": "bob", "who": " bob ", "box": [-2.5, 0.5, 4, 9]},
    {"text": "nobody", "who": None, "box": None},
]


def table(kind: str, root: Path, rows: list[dict[str, object]]) -> DatasetConfig:
    root.mkdir(parents=True)
    pictures = [png((6, 4), (number, 9, 9)) for number in range(len(rows))]
    if kind == "imagefolder":
        for number, data in enumerate(pictures):
            (root / f"{number}.png").write_bytes(data)
        lines = [json.dumps({"file_name": f"{number}.png", **row}) for number, row in enumerate(rows)]
        (root / "metadata.jsonl").write_text("\n".join(lines))
    else:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        pyarrow.parquet.write_table(pyarrow.table({"image": pictures, **columns}), root / "a.parquet")
    return DatasetConfig.model_validate(
        {"source": kind, "path": str(root), "concept_column": "who", "face_box_column": "box"}
    )


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_concepts_and_faces_come_from_columns(kind: str, tmp_path: Path) -> None:
    prepare_dataset(table(kind, tmp_path / "set", ROWS), tmp_path / "out")
    records = read_records(tmp_path / "out")
    assert [record.concept for record in records] == ["ann", "bob", None]
    assert [record.face_box for record in records] == [(1, 1, 3, 3), (0, 0.5, 4, 4), None]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"box": [1, 2, 3]}, r"the face box should be \[left, top, right, bottom\] in pixels, got \[1, 2, 3\]"),
        ({"box": [3, 1, 1, 3]}, "left < right"),
        ({"box": ["1", 2, 3, 4]}, "the face box should be"),
        ({"box": [1, 2, True, 4]}, "the face box should be"),
        ({"box": [60, 40, 120, 80]}, r"lies outside the 6 x 4 px; is it of another size\?"),
        ({"who": 3}, "the concept should be a name"),
    ],
)
def test_a_cell_that_is_none_is_named(tmp_path: Path, cell: dict[str, object], message: str) -> None:
    config = table("imagefolder", tmp_path / "set", [{**ROWS[0], **cell}])
    with pytest.raises(UserError, match=rf"0\.png: .*{message}"):
        prepare_dataset(config, tmp_path / "out")


@pytest.mark.parametrize("column", ["concept_column", "face_box_column"])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, column: str) -> None:
    config = table("imagefolder", tmp_path / "set", ROWS).model_copy(update={column: "boxx"})
    with pytest.raises(UserError, match=rf"dataset\.{column} = 'boxx'.*Did you mean 'box'"):
        prepare_dataset(config, tmp_path / "out")


def test_the_default_artifact_says_nothing_of_them(tmp_path: Path, photo: Photo) -> None:
    """So that datasets without masks and faces keep their digests."""
    photo(tmp_path / "set" / "a.png")
    prepare_dataset(DatasetConfig(source="prompt", path=str(tmp_path / "set"), prompt="x"), tmp_path / "out")
    assert {*json.loads((tmp_path / "out" / "records.jsonl").read_text())}.isdisjoint({"mask", "face_box"})
    assert not (tmp_path / "out" / "masks").exists()


def test_16_bit_and_colour_masks_are_read_by_their_brightness(masked: DatasetConfig, tmp_path: Path) -> None:
    deep = np.zeros((4, 6), np.uint16)
    deep[:, :3] = 65535
    stream = io.BytesIO()
    Image.fromarray(deep).save(stream, "PNG")
    (tmp_path / "masks" / "ann.png").write_bytes(stream.getvalue())
    prepare_dataset(masked, tmp_path / "out")
    mask_HW = np.asarray(read_mask(tmp_path / "out", read_records(tmp_path / "out")[0]))
    assert bool((mask_HW[:, :3] == 255).all()) and not mask_HW[:, 3:].any()
