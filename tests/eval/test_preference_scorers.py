"""Scorers of the CLIP family: what they share, what they refuse, and the traps of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from eval.clip import ClipText, ClipVision
from eval.errors import EvalError
from eval.score import METRICS_FILE
from eval.scorers import SCORERS
from eval.scorers.aesthetics import read_head
from eval.scorers.base import Metric
from eval.table import Row, read_scores
from tests.eval.references import aesthetics as aesthetics_reference

ToyWeights = Callable[[str], Mapping[str, Path]]
PROMPTS = ("a photo of a person", "a drawing of a tree")


def metric(kind: str, **settings: Any) -> Metric:
    texts = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    return SCORERS[kind].model_validate({"metric": kind, **texts})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, toys: Any) -> Path:
    return toys.image_set(tmp_path_factory.mktemp("pictures") / "base", toys.paint(1), PROMPTS, replicates=2)


def values(rows: tuple[Row, ...], name: str) -> np.ndarray:
    return np.array([row.value for row in rows if row.metric_id == name])


def not_run(folder: Path) -> dict[str, str]:
    return {facts["name"]: facts["not_run"] for facts in json.loads((folder / METRICS_FILE).read_text())}


def test_scorers_on_the_same_clip_ask_one_question(
    clip_folder: Path, toy_weights: ToyWeights, pictures: Path, score: Any, toys: Any, tmp_path: Path
) -> None:
    instances = toys.dataset(tmp_path / "instances", [toys.paint(3)(number, 0) for number in range(3)])
    head = toy_weights("aesthetics")["head"]
    names = ("clip_score", "clip_t", "pick_score", "clip_i")
    metrics = [metric("aesthetics", model=clip_folder, head=head), *(metric(name, model=clip_folder) for name in names)]
    asked: list[tuple[int, int]] = []
    out = score(
        metrics,
        tmp_path / "out",
        base=pictures,
        references=instances,
        progress=lambda done, total: asked.append((done, total)),
    )
    assert asked[-1] == (4 + 3, 4 + 3)  # generated pictures and instance pictures, whatever number of metrics
    assert {row.metric_id for row in read_scores(out)} == {*names, "aesthetics"}


def test_the_cosine_under_a_pick_score_is_clip_t_s(
    clip_folder: Path, pictures: Path, score: Any, tmp_path: Path
) -> None:
    both = [metric("pick_score", model=clip_folder), metric("clip_t", model=clip_folder)]
    rows = read_scores(score(both, tmp_path, base=pictures))
    scale = CLIPModel.from_pretrained(clip_folder).logit_scale.exp().item()
    np.testing.assert_allclose(values(rows, "pick_score"), scale * values(rows, "clip_t"), rtol=1e-6)


def test_a_clip_whose_towers_do_not_repeat_its_width_is_read(clip_folder: Path, tmp_path: Path) -> None:
    """As LAION's folders on the hub: only the top of config.json has projection_dim."""
    laion = shutil.copytree(clip_folder, tmp_path / "laion")
    config = json.loads((laion / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        del config[tower]["projection_dim"]
    (laion / "config.json").write_text(json.dumps(config))
    picture = Image.new("RGB", (32, 32), "red")
    ours, theirs = (
        ClipVision(folder, "0", "cpu").answer([ClipVision(folder, "0", "cpu").prepare((), (picture,))])
        for folder in (laion, clip_folder)
    )
    assert ours == theirs
    texts = [ClipText(folder, "0", {}, "cpu").embedding_D("a tree") for folder in (laion, clip_folder)]
    np.testing.assert_array_equal(*texts)


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("processor_config.json", "laion: no preprocessor_config.json in it, which says how a CLIP model sees"),
        ("tokenizer.json", "laion: neither tokenizer.json nor vocab.json in it; put"),
        ("logit_scale", "laion: no logit_scale in its safetensors"),
        (
            "vision_model.post_layernorm.weight",
            "laion: not a CLIP model: 1 of its tensors are missing, first",
        ),
        (
            "text_projection.weight",
            "laion: not a CLIP model: 1 of its tensors are missing, first",
        ),
    ],
)
def test_a_pick_score_folder_that_lacks_something_is_refused_by_name(
    clip_folder: Path, pictures: Path, score: Any, tmp_path: Path, absent: str, message: str
) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "laion")
    if (folder / absent).exists():
        (folder / absent).unlink()
    else:
        tensors = load_file(folder / "model.safetensors")
        del tensors[absent]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    reason = not_run(score(metric("pick_score", model=folder), tmp_path / "out", base=pictures))["pick_score"]
    assert reason.startswith(message)


def test_damaged_clip_weights_are_a_reason(clip_folder: Path, pictures: Path, score: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"junk")
    metrics = [
        metric("pick_score", model=folder),
        metric("clip_t", model=folder),
        metric("aesthetics", **{"model": folder, "head": tmp_path / "none.pth"}),
    ]
    found = not_run(score(metrics, tmp_path / "out", base=pictures))
    assert found["pick_score"].startswith("damaged/model.safetensors: cannot be read")
    assert found["clip_t"].startswith("damaged: not a CLIP model in safetensors")
    assert found["aesthetics"] == "head: no such file or folder: none.pth"


def test_a_head_in_safetensors_scores_as_its_layers(toy_weights: ToyWeights, tmp_path: Path) -> None:
    stored = torch.load(toy_weights("aesthetics")["head"], weights_only=True)
    save_file(stored, tmp_path / "layers.safetensors")
    weight_D, bias = read_head(tmp_path / "layers.safetensors")
    save_file({"weight": torch.tensor(weight_D), "bias": torch.tensor(bias)}, tmp_path / "folded.safetensors")
    again_D, again = read_head(tmp_path / "folded.safetensors")
    np.testing.assert_allclose(again_D, weight_D, rtol=1e-6)
    layers = aesthetics_reference.head(width=12).eval()
    layers.load_state_dict({key.removeprefix("layers."): tensor for key, tensor in stored.items()})
    embedding_D = torch.nn.functional.normalize(torch.randn(12, generator=torch.Generator().manual_seed(0)), dim=0)
    expected = layers(embedding_D).item()
    assert float(weight_D @ embedding_D.numpy()) + bias == pytest.approx(expected, abs=1e-6)
    assert float(again_D @ embedding_D.numpy()) + again == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {
                f"layers.{number}.{part}": torch.zeros(1, 1) if part == "weight" else torch.zeros(1)
                for number in (0, 3, 6, 9, 11)
                for part in ("weight", "bias")
            },
            "A head with activations is another metric",
        ),
        ({"weight": torch.zeros(2, 12), "bias": torch.zeros(2)}, "do not make one number"),
        ({"weight": torch.zeros(1, 12)}, "expected linear layers"),
    ],
)
def test_other_heads_are_refused(tensors: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    """LAION's head with ReLUs between has layers of the same shapes under other numbers."""
    torch.save(tensors, tmp_path / "head.pth")
    with pytest.raises(EvalError, match=message):
        read_head(tmp_path / "head.pth")


def test_a_head_of_another_width_is_refused(clip_folder: Path, pictures: Path, score: Any, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(768), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    aesthetics = metric("aesthetics", model=clip_folder, head=tmp_path / "head.safetensors")
    reason = not_run(score(aesthetics, tmp_path / "out", base=pictures))["aesthetics"]
    assert reason.startswith(f"aesthetics.head: made for embeddings of width 768; {clip_folder.name} makes width 12. ")
