"""Folders of pictures that metrics compare with: found, digested by their bytes, refused by the name of their key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from sdxl_core.errors import UserError
from tasks.experiment import prepare_experiment
from tasks.store import ArtifactStore
from tasks.weights import MetricWeights
from tasks.yaml_config import read_config
from tests.tasks.toy import write_experiment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "toy").parent


def located(folder: Path, pictures: str, *more: str) -> MetricWeights:
    metric = f"{{metric: kid, model: {folder / 'clip'}, pictures: {pictures}}}"
    config = read_config(folder / "toy.yaml", [f"evaluation.metrics.1={metric}", *more])
    return prepare_experiment(config, ArtifactStore(folder / "store"), "command").metric_weights["kid"]


def test_pictures_are_their_bytes(folder: Path) -> None:
    real = folder / "real"
    real.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(real / f"{number}.png")
    before = located(folder, str(real))
    assert before.places["pictures"] == str(real) and set(before.digests) == {"model", "pictures"}

    (real / "notes.txt").write_text("do not matter")
    (real / "0.png").rename(real / "z.png")
    shutil.copyfile(real / "1.png", real / "again.png")
    assert located(folder, str(real)).digests == before.digests
    Image.new("RGB", (8, 8), (9, 0, 0)).save(real / "1.png")
    (real / "again.png").unlink()
    assert located(folder, str(real)).digests != before.digests


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ("some/hub-id", r"expected a local folder of pictures, got 'some/hub-id'.*A local path begins with"),
        ("/nowhere", "expected a folder or file that exists, got /nowhere"),
        ("{folder}/clip", r"expected a folder with pictures \(\.avif, .*\), got none in .*clip"),
        ("{folder}/prompts.jsonl", "expected a folder with pictures"),
    ],
)
def test_a_place_without_pictures_is_refused(folder: Path, pictures: str, message: str) -> None:
    place = pictures.format(folder=folder)
    with pytest.raises(UserError, match=rf"evaluation\.metrics\.1\.pictures: {message}"):
        located(folder, place, "evaluation.strict=true")
    found = located(folder, place)
    assert found.missing.startswith("evaluation.metrics.1.pictures: ") and not found.places
