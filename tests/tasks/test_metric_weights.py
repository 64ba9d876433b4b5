"""Folders of pictures that metrics compare with: found, digested by their bytes, refused by the name of their key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdxl_core.config import DatasetConfig
from sdxl_core.errors import UserError
from tasks.experiment import prepare_experiment
from tasks.report import learned_from
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


def test_of_a_hub_id_only_the_named_files_are_got_and_all_are_digested(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[str]] = {}

    def download(repository: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: object) -> str:
        asked[repository] = allow_patterns
        return str(tmp_path / Path(repository).name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for name, files in {"ImageReward": ("med_config.json",), "bert": ("vocab.txt",)}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    found = []
    for value in (0.0, 1.0):
        torch.save({"tensor": torch.tensor(value)}, tmp_path / "ImageReward" / "ImageReward.pt")
        metric = "{metric: image_reward, model: THUDM/ImageReward, text: some/bert}"
        config = read_config(folder / "toy.yaml", [f"evaluation.metrics.1={metric}"])
        experiment = prepare_experiment(config, ArtifactStore(folder / "store"), "command")
        found.append(experiment.metric_weights["image_reward"])
    assert asked == {
        "THUDM/ImageReward": ["ImageReward.pt", "med_config.json"],
        "some/bert": ["med_config.json", "tokenizer*.json", "vocab.txt"],
    }
    assert found[0].places == {"model": str(tmp_path / "ImageReward"), "text": str(tmp_path / "bert")}
    assert found[0].digests["text"] == found[1].digests["text"]
    assert found[0].digests["model"] != found[1].digests["model"]


def test_what_was_learned_from_is_a_hub_id_or_a_folder_s_name() -> None:
    hub = DatasetConfig(source="hub", path="yuvalkirstain/pickapic_v2")
    assert learned_from(hub) == ["yuvalkirstain/pickapic_v2"]
    assert learned_from(DatasetConfig(path="/home/laion/cats")) == ["cats"]


def test_an_architecture_s_file_is_its_content(folder: Path) -> None:
    """A relative path is the configuration file's; where the file lies enters no key, what is in it does."""

    def called(architecture: str) -> tuple[MetricWeights, object]:
        text = (folder / "toy.yaml").read_text()
        metric = f"{{metric: hps, release: own, checkpoint: ./own.safetensors, architecture: {architecture}}}"
        (folder / "hps.yaml").write_text(text.replace("{metric: ssim}", metric))
        config = read_config(folder / "hps.yaml")
        found = prepare_experiment(config, ArtifactStore(folder / "store"), "command").metric_weights["hps"]
        return found, config.evaluation.metrics[1].identity()

    (folder / "own.safetensors").write_bytes(b"weights")
    (folder / "own.json").write_text("{}")
    weights, identity = called("./own.json")
    assert weights.places["architecture"] == str(folder / "own.json")
    (folder / "own.json").rename(folder / "pictures" / "moved.json")
    moved = called("./pictures/moved.json")
    assert (moved[0].digests, moved[1]) == (weights.digests, identity)
    (folder / "pictures" / "moved.json").write_text('{"embed_dim": 8}')
    changed = called("./pictures/moved.json")
    assert changed[0].digests != weights.digests and changed[1] == identity
    assert called("./none.json")[0].missing.startswith("evaluation.metrics.1.architecture: expected a folder or file")
    named = called("ViT-L-14")
    assert set(named[0].digests) == {"checkpoint"} and named[1] != identity
