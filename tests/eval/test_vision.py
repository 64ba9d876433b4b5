"""Embeddings of pictures: which folders are taken, and who shares what was embedded."""

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
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from eval import embeddings
from eval.clip import ClipVision
from eval.embeddings import vector_D
from eval.errors import EvalError
from eval.images import read_references
from eval.scorers.clip_i import ClipI
from eval.scorers.dino import Dino
from eval.scorers.nearest_instance import NearestInstance
from eval.table import INSTANCES, Row, read_scores
from eval.vit import VitVision
from tests.eval.references import Case
from tests.eval.references.dino import WIDTHS, cosines_to_instances, save_random

ToyWeights = Callable[[str], Mapping[str, Path]]


@pytest.fixture(scope="module")
def vit_folder(toy_weights: ToyWeights) -> Path:
    return toy_weights("dino")["model"]


@pytest.fixture
def changed(vit_folder: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(vit_folder, tmp_path / "changed"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, toys: Any) -> dict[str, Path]:
    """Generated pictures of two prompts; the first prompt's is also an instance picture."""
    folder = tmp_path_factory.mktemp("vision")
    instances = [toys.paint(2)(0, 0), toys.paint(1)(0, 0), toys.paint(2)(1, 0)]
    return {
        "base": toys.image_set(folder / "base", toys.paint(1), ("a", "b")),
        "references": toys.dataset(folder / "references", instances),
    }


def rows_of(score: Any, world: dict[str, Path], out: Path, *metrics: Any, **more: Any) -> list[Row]:
    """Of generated pictures."""
    rows = [row for row in read_scores(score(metrics, out, **world, **more)) if row.model_id != INSTANCES]
    return sorted(rows, key=lambda row: (row.metric_id, row.prompt_id))


def embedded(vision: VitVision | ClipVision, image: Image.Image) -> np.ndarray:
    return vector_D(vision.answer([vision.prepare((), [image])] * 8)[0])


def test_dinov2_goes_through_the_same_field(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_random(Dinov2Model(Dinov2Config(**WIDTHS)), tmp_path)
    BitImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 71, 3), dtype=np.uint8))
    middle = image.resize((34, 18), Image.Resampling.BICUBIC).crop((9, 1, 25, 17))
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    pixels_1CHW = torch.tensor((np.asarray(middle) / 255 - mean) / std).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        token_D = Dinov2Model.from_pretrained(tmp_path).eval()(pixels_1CHW).last_hidden_state[0, 0]
    expected = torch.nn.functional.normalize(token_D, dim=0).numpy()
    np.testing.assert_allclose(embedded(VitVision(tmp_path, "0", "cpu"), image), expected, atol=1e-6)


def test_the_nearest_instance_of_a_training_picture_is_itself(
    vit_folder: Path, world: dict[str, Path], score: Any, tmp_path: Path
) -> None:
    nearest = NearestInstance(metric="nearest_instance", model=str(vit_folder))
    dino = Dino(metric="dino", model=str(vit_folder))
    mean_copied, mean_other, copied, other = (row.value for row in rows_of(score, world, tmp_path, nearest, dino))
    assert copied == pytest.approx(1, abs=1e-6)
    assert mean_copied < copied
    assert mean_other < other < 0.999


def test_nearest_instance_says_which_it_is(
    vit_folder: Path, world: dict[str, Path], score: Any, toys: Any, tmp_path: Path
) -> None:
    """And how near the instance pictures are to each other, each among all but itself."""
    nearest = NearestInstance(metric="nearest_instance", model=str(vit_folder))
    rows = {(row.model_id, row.prompt_id, row.replicate): row for row in read_scores(score(nearest, tmp_path, **world))}
    instances = [toys.paint(2)(0, 0), toys.paint(1)(0, 0), toys.paint(2)(1, 0)]
    digests = [picture.identity for picture in read_references(world["references"])]
    assert rows["base", "p0", 0].evidence == digests[1]
    assert len(rows) == 2 + len(instances)
    for place, picture in enumerate(instances):
        others = [other for other in range(3) if other != place]
        case = Case({"model": vit_folder}, [picture], "", [instances[other] for other in others])
        cosines = cosines_to_instances(case)
        mine = rows[INSTANCES, "", place]
        assert (mine.image_digest, mine.evidence) == (digests[place], digests[others[int(np.argmax(cosines))]])
        assert mine.value == pytest.approx(max(cosines), abs=2e-5)


def test_one_instance_picture_has_none_to_be_near_to(
    vit_folder: Path, world: dict[str, Path], score: Any, toys: Any, tmp_path: Path
) -> None:
    nearest = NearestInstance(metric="nearest_instance", model=str(vit_folder))
    one = toys.dataset(tmp_path / "one", [toys.paint(1)(0, 0)])
    scores = read_scores(score(nearest, tmp_path / "out", base=world["base"], references=one))
    assert {row.model_id for row in scores} == {"base"}


def test_all_against_all_does_not_depend_on_how_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_ND = np.random.default_rng(0).normal(size=(11, 5))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    found = []
    for rows_at_once in (2, 11):
        monkeypatch.setattr(embeddings, "ROWS_AT_ONCE", rows_at_once)
        found.append(embeddings.nearest_others(vectors_ND))
    assert [place for place, _ in found[0]] == [place for place, _ in found[1]]
    for place, (other, cosine) in enumerate(found[0]):
        rest = {row: float(vectors_ND[row] @ vectors_ND[place]) for row in range(11) if row != place}
        assert other == max(rest, key=lambda row: rest[row]) and cosine == pytest.approx(rest[other])


def test_nearest_instance_asks_what_dino_or_clip_i_ask(
    vit_folder: Path, clip_folder: Path, world: dict[str, Path], score: Any, tmp_path: Path
) -> None:
    pairs = {
        "vit": (Dino(metric="dino", model=str(vit_folder)), vit_folder),
        "clip": (ClipI(metric="clip_i", model=str(clip_folder)), clip_folder),
    }
    for kind, (metric, folder) in pairs.items():
        cells: dict[str, bytes] = {}
        rows_of(score, world, tmp_path / kind, metric, cells=cells)
        asked = dict(cells)
        nearest = NearestInstance(metric="nearest_instance", model=str(folder))
        found = rows_of(score, world, tmp_path / f"{kind}-nearest", nearest, cells=cells)
        assert len(asked) == 2 + 3
        assert cells == asked
        assert found[0].value == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Dino, "expected model_type vit or dinov2 or dinov2_with_registers, got 'resnet'"),
        (NearestInstance, "expected model_type clip or .* or vit or .*, got 'resnet'"),
        (ClipI, "expected model_type clip or clip_vision_model, got 'resnet'"),
    ],
)
def test_another_kind_of_network_is_refused(
    metric: Any, message: str, changed: Path, world: dict[str, Path], score: Any, tmp_path: Path
) -> None:
    (changed / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    name = metric.model_fields["metric"].annotation.__args__[0]
    score(metric(metric=name, model=str(changed)), tmp_path / "out", **world)
    (facts,) = json.loads((tmp_path / "out" / "metrics.json").read_text())
    with pytest.raises(EvalError, match=message):
        raise EvalError(facts["not_run"])


def test_a_folder_without_its_processor_is_refused(changed: Path) -> None:
    (changed / "preprocessor_config.json").unlink()
    with pytest.raises(EvalError, match=r"changed: no preprocessor_config\.json in it"):
        VitVision(changed, "0", "cpu")


def test_missing_and_misshapen_tensors_are_refused(changed: Path) -> None:
    image = Image.new("RGB", (16, 16))
    tensors = load_file(changed / "model.safetensors")
    gone = min(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, changed / "model.safetensors")
    with pytest.raises(EvalError, match="changed: not a vision transformer: 1 of its tensors are missing, first "):
        embedded(VitVision(changed, "0", "cpu"), image)
    save_file({**tensors, gone: torch.zeros(3)}, changed / "model.safetensors")
    with pytest.raises(EvalError, match="changed: not a vision transformer in safetensors"):
        embedded(VitVision(changed, "0", "cpu"), image)
    (changed / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(EvalError, match="changed: not a vision transformer in safetensors"):
        embedded(VitVision(changed, "0", "cpu"), image)


def test_another_preprocessing_is_another_question(changed: Path, vit_folder: Path) -> None:
    before = VitVision(vit_folder, "0", "cpu").spec
    assert VitVision(changed, "0", "cpu").spec == before
    assert VitVision(changed, "1", "cpu").spec != before
    path = changed / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_mean": [0.5, 0.5, 0.5]}))
    assert VitVision(changed, "0", "cpu").spec != before


def test_a_processor_for_another_size_is_refused(changed: Path) -> None:
    path = changed / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": {"height": 20, "width": 20}}))
    with pytest.raises(EvalError, match="changed: a vision transformer cannot take what its image processor makes"):
        embedded(VitVision(changed, "0", "cpu"), Image.new("RGB", (16, 16)))
