"""HPS: its own preprocessing, its checkpoints, and what open_clip must not do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from eval.errors import EvalError, NotScored
from eval.openclip import OpenClip, OpenClipText
from eval.score import METRICS_FILE
from eval.scorers.hps import Hps, hps_pixels_CHW
from eval.table import read_scores
from tests.eval.references import hps as reference

PROMPTS = ("a photo of a person", "a drawing of a tree")


def build(checkpoint: Path, **settings: Any) -> Hps:
    given = {"release": "v2.1", "architecture": reference.ARCHITECTURE, **settings}
    return Hps(metric="hps", checkpoint=str(checkpoint), **given)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, toys: Any) -> Path:
    return toys.image_set(tmp_path_factory.mktemp("pictures") / "base", toys.paint(1), PROMPTS, replicates=2)


@pytest.fixture(scope="module")
def checkpoint(toy_weights: Callable[[str], Mapping[str, Path]]) -> Path:
    return toy_weights("hps")["checkpoint"]


def values(out: Path, name: str = "hps") -> np.ndarray:
    return np.array([row.value for row in read_scores(out) if row.metric_id == name])


@pytest.mark.parametrize("size", [(48, 20), (20, 48), (28, 13), (9, 12), (28, 28), (61, 61)])
@pytest.mark.parametrize("antialias", [True, False])
def test_hps_prepares_pictures_as_its_authors(size: tuple[int, int], antialias: bool) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    found = hps_pixels_CHW(Image.fromarray(picture), reference.SIDE_PX, antialias)
    torch.testing.assert_close(found, reference.pixels(picture, antialias), atol=1e-5, rtol=0)


def test_hps_does_not_score_what_would_vanish() -> None:
    with pytest.raises(NotScored, match="too narrow: 1x100 has no pixels left at 28 px"):
        hps_pixels_CHW(Image.new("RGB", (1, 100)), 28, antialias=True)


def test_hps_without_antialiasing_is_another_number(
    checkpoint: Path, pictures: Path, score: Any, toys: Any, tmp_path: Path
) -> None:
    aliased = build(checkpoint, name="aliased", antialias=False)
    out = score([build(checkpoint), aliased], tmp_path, base=pictures)
    for name, antialias in (("hps", True), ("aliased", False)):
        expected = [
            100 * reference.cosine(checkpoint, toys.paint(1)(number, replicate), PROMPTS[number], antialias)
            for number in (0, 1)
            for replicate in (0, 1)
        ]
        np.testing.assert_allclose(values(out, name), expected, atol=1e-4)
    assert np.abs(values(out, "hps") - values(out, "aliased")).min() > 1e-3
    titles = [facts["title"] for facts in json.loads((out / METRICS_FILE).read_text())]
    assert titles == ["HPS v2.1", "HPS v2.1 without antialiasing (aliased)"]


def test_hps_releases_are_different_scorers(checkpoint: Path) -> None:
    old, new = (build(checkpoint, release=release) for release in ("v2.0", "v2.1"))
    assert old.identity() != new.identity()
    with pytest.raises(ValueError, match=r"release\n.*Field required"):
        Hps.model_validate({"metric": "hps", "checkpoint": str(checkpoint)})


def test_hps_reads_safetensors_too(checkpoint: Path, pictures: Path, score: Any, tmp_path: Path) -> None:
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, tmp_path / "hps.safetensors")
    found = []
    for place in (checkpoint, tmp_path / "hps.safetensors"):
        found.append(values(score(build(place), tmp_path / place.stem, base=pictures)))
    np.testing.assert_array_equal(*found)


class Trap:
    """What unpickling would run."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.sprung),)


def test_a_checkpoint_with_code_is_refused_and_not_run(
    checkpoint: Path, pictures: Path, score: Any, tmp_path: Path
) -> None:
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.save({"state_dict": stored, "trap": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    out = score(build(tmp_path / "trap.pt"), tmp_path / "out", base=pictures)
    (facts,) = json.loads((out / METRICS_FILE).read_text())
    assert facts["not_run"].startswith("trap.pt: cannot be read as a file of plain tensors; if you trust it")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.pop("ln_final.bias"), "not the weights of .*: 1 of .*, first 'ln_final.bias'"),
        (lambda stored: stored.update(logit_bias=torch.zeros(1)), "not the weights of .*, first 'logit_bias'"),
        (lambda stored: stored.update(text_projection=torch.zeros(8, 9)), "another shape, first 'text_projection'"),
        (lambda stored: stored.update(text_projection="no"), "expected tensors by name"),
    ],
)
def test_hps_refuses_other_weights(checkpoint: Path, tmp_path: Path, change: Any, message: str) -> None:
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    change(stored)
    torch.save({"state_dict": stored}, tmp_path / "other.pt")
    with pytest.raises(EvalError, match=message):
        OpenClip(reference.ARCHITECTURE, tmp_path / "other.pt", "0", "cpu").load("visual")


def test_a_folder_is_no_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(EvalError, match="expected a file of tensors, got a folder"):
        OpenClip(reference.ARCHITECTURE, tmp_path, "0", "cpu").load("text")


@pytest.mark.parametrize("name", ["roberta-ViT-B-32", "convnext_base", "ViT-B-16-SigLIP", "coca_base", "EVA01-g-14"])
def test_architectures_that_need_the_hub_are_refused(name: str) -> None:
    with pytest.raises(EvalError, match=f"open_clip's {name} has other towers than CLIP's own"):
        OpenClip(name, Path("none.pt"), "0", "cpu")


@pytest.mark.parametrize("name", ["ViT-H-41", "hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K"])
def test_unknown_architectures_are_refused(name: str) -> None:
    with pytest.raises(EvalError, match=f"open_clip has no architecture '{name}'; it has .*ViT-H-14"):
        OpenClip(name, Path("none.pt"), "0", "cpu")


def test_hps_itself_is_a_plain_architecture() -> None:
    network = OpenClip("ViT-H-14", Path("none.pt"), "0", "cpu")
    assert (network.side_px, network.max_tokens) == (224, 77)


def test_a_long_prompt_of_hps_is_cut_and_said_so(checkpoint: Path) -> None:
    network = OpenClip(reference.ARCHITECTURE, checkpoint, "0", "cpu")
    cells: dict[str, bytes] = {}
    text = OpenClipText(network, cells, "cpu")
    assert not text.is_truncated("tree " * 75)
    assert text.is_truncated("tree " * 76)
    cut, whole = text.embedding_D("tree " * 75 + "house"), text.embedding_D("tree " * 75)
    np.testing.assert_array_equal(cut, whole)
    assert len(cells) == 2


def own_architecture(checkpoint: Path) -> Path:
    """The toy's own, which open_clip knows by name too."""
    return checkpoint.parent / f"{reference.ARCHITECTURE}.json"


def test_an_architecture_may_be_a_file(checkpoint: Path, pictures: Path, score: Any, tmp_path: Path) -> None:
    known, own = (build(checkpoint, name="it", architecture=str(given)) for given in (
        reference.ARCHITECTURE, own_architecture(checkpoint)
    ))  # fmt: skip
    cells: dict[str, bytes] = {}
    by_name = values(score(known, tmp_path / "name", base=pictures, cells=cells), "it")
    answered = len(cells)
    np.testing.assert_array_equal(values(score(own, tmp_path / "file", base=pictures, cells=cells), "it"), by_name)
    assert len(cells) == answered, "the same network's answers"


def test_an_architecture_s_file_is_known_by_its_content(checkpoint: Path, tmp_path: Path) -> None:
    """Its place is not in the identity; its digest is asked for as that of weights is."""
    here, there = (build(checkpoint, architecture=f"/{folder}/it.json") for folder in ("here", "there"))
    assert here.identity() == there.identity() != build(checkpoint).identity()
    assert here.locations() == {"checkpoint": str(checkpoint), "architecture": "/here/it.json"}
    assert build(checkpoint).locations() == {"checkpoint": str(checkpoint)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"own.json: cannot be read as JSON"),
        ("[1]", r"own.json: expected open_clip's configuration of a model: embed_dim, vision_cfg, text_cfg"),
        ('{"model_cfg": {}}', r"own.json: expected open_clip's configuration of a model"),
        ('{"vision_cfg": {"image_size": [8, 8]}, "text_cfg": {}}', r"image_size: expected the side .*, got \[8, 8\]"),
        ('{"vision_cfg": {"image_size": 8, "timm_model_name": "x"}, "text_cfg": {}}', "other towers than CLIP's own"),
        ('{"vision_cfg": {"image_size": 8}, "text_cfg": {}, "custom_text": true}', "other towers than CLIP's own"),
        (
            '{"vision_cfg": {"image_size": 8}, "text_cfg": {}}',
            r"own.json: open_clip makes no network of it \(TypeError",
        ),
    ],
)
def test_an_architecture_s_file_that_is_none_is_refused(
    checkpoint: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(EvalError, match=message):
        OpenClip(tmp_path / "own.json", checkpoint, "0", "cpu").load("text")


def test_each_tower_is_read_by_itself_and_once(checkpoint: Path) -> None:
    """What one has, the other has not; together they are the whole network as open_clip loads it."""
    network = OpenClip(reference.ARCHITECTURE, checkpoint, "0", "cpu")
    visual, text = network.load("visual"), network.load("text")
    found = {f"visual.{name}": tensor for name, tensor in visual.state_dict().items()} | dict(text.state_dict())
    assert len(found) == len(visual.state_dict()) + len(text.state_dict())
    whole = reference.open_clip.create_model(reference.ARCHITECTURE, pretrained=str(checkpoint))
    assert found.keys() == whole.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.state_dict().items())
    torch.testing.assert_close(text.attn_mask, whole.attn_mask)


def test_half_precision_becomes_float32(checkpoint: Path, tmp_path: Path) -> None:
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    save_file({name: tensor.half().contiguous() for name, tensor in stored.items()}, tmp_path / "half.safetensors")
    network = OpenClip(reference.ARCHITECTURE, tmp_path / "half.safetensors", "0", "cpu")
    for tower in (network.load("visual"), network.load("text")):
        assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}
