"""What holds for every registered metric. A new metric fails here until it is complete."""

from __future__ import annotations

import itertools
import math
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import lpips
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoProcessor, CLIPModel

import eval.scorers
from eval.config import EvaluationConfig
from eval.scorers import SCORERS
from eval.scorers.base import Metric
from eval.table import Row, read_scores

SETTINGS: dict[str, dict[str, Any]] = {"lpips": {"net": "squeeze", "linear": False}}
"""What a metric needs beside its weights to be built for these tests."""


def build(name: str, weights_of: dict[str, Path]) -> Metric:
    cls = SCORERS[name]
    weights = {field: str(weights_of[field]) for field in cls.weight_fields}
    return cls.model_validate({"metric": name, **weights, **SETTINGS.get(name, {})})


# Slow, obvious references: each takes the base's and the candidate's picture, the prompt and the instance pictures.


def clip_logits(weights_of: dict[str, Path], images: list[np.ndarray], text: str) -> tuple[np.ndarray, float]:
    """CLIPModel's own logits, and its scale."""
    folder = weights_of["model"]
    model = CLIPModel.from_pretrained(folder).eval()
    inputs = AutoProcessor.from_pretrained(folder, backend="pil")(
        text=[text], images=list(images), return_tensors="pt", padding=True, truncation=True, max_length=77
    )
    with torch.no_grad():
        return model(**inputs).logits_per_image[:, 0].numpy(), float(model.logit_scale.exp())


def reference_clip_score(weights_of: dict[str, Path], base: Any, candidate: Any, prompt: str, _: Any) -> float:
    logits, scale = clip_logits(weights_of, [base], prompt)
    return 100 * float(logits[0]) / scale


def reference_clip_i(weights_of: dict[str, Path], base: Any, candidate: Any, prompt: str, instances: Any) -> float:
    folder = weights_of["model"]
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = AutoProcessor.from_pretrained(folder, backend="pil").image_processor(
        images=[base, *instances], return_tensors="pt"
    )
    with torch.no_grad():
        features = model.visual_projection(model.vision_model(**pixels).pooler_output)
    cosines = [torch.cosine_similarity(features[0], other, dim=0) for other in features[1:]]
    return float(sum(cosines) / len(cosines))


def reference_lpips(weights_of: dict[str, Path], base: Any, candidate: Any, prompt: str, _: Any) -> float:
    model = lpips.LPIPS(net="squeeze", pnet_rand=True, lpips=False, verbose=False)
    trunk = load_file(weights_of["trunk"])
    for name, parameter in model.net.named_parameters():
        parameter.data = trunk[name.split(".", 1)[1]]
    first, second = (torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1 for image in (base, candidate))
    with torch.no_grad():
        return float(model(first, second))


def reference_ssim(weights_of: dict[str, Path], base: Any, candidate: Any, prompt: str, _: Any) -> float:
    """Wang et al. 2004, equation 13, window by window; the border is reflected so that every pixel has a window."""
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    first, second = (np.pad(image / 255.0, ((5, 5), (5, 5), (0, 0)), "reflect") for image in (base, candidate))
    values = []
    for top, left, channel in itertools.product(range(base.shape[0]), range(base.shape[1]), range(3)):
        x, y = (image[top : top + 11, left : left + 11, channel] for image in (first, second))
        mean_x, mean_y = (window * x).sum(), (window * y).sum()
        var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
        both = (window * (x - mean_x) * (y - mean_y)).sum()
        values.append(
            (2 * mean_x * mean_y + 0.01**2)
            * (2 * both + 0.03**2)
            / ((mean_x**2 + mean_y**2 + 0.01**2) * (var_x + var_y + 0.03**2))
        )
    return float(np.mean(values))


REFERENCES = {
    "clip_score": reference_clip_score,
    "clip_i": reference_clip_i,
    "lpips": reference_lpips,
    "ssim": reference_ssim,
}
PROMPTS = ("a photo of a person", "a drawing " * 30)  # the second is longer than 77 tokens


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, toys: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("world")
    return {
        "base": toys.image_set(folder / "base", toys.paint(1), PROMPTS, replicates=2),
        "candidate": toys.image_set(folder / "candidate", toys.paint(2), PROMPTS, replicates=2),
        "references": toys.dataset(folder / "references", [toys.paint(3)(number, 0) for number in range(3)]),
    }


def sets_for(metric: Metric, world: dict[str, Path]) -> dict[str, Path]:
    return world if metric.needs == "pair" else {key: world[key] for key in ("base", "references")}


def rows_of(metric: Metric, world: dict[str, Path], score: Any, out: Path, **more: Any) -> tuple[Row, ...]:
    return read_scores(score(metric, out, **sets_for(metric, world), **more))


def test_every_file_among_the_scorers_is_registered_and_tested() -> None:
    modules = {module.name for module in pkgutil.iter_modules(eval.scorers.__path__)} - {"base"}
    assert modules == set(SCORERS) == set(REFERENCES)


@pytest.mark.parametrize("name", SCORERS)
def test_a_metric_is_registered_under_its_own_name(name: str) -> None:
    assert get_args(SCORERS[name].model_fields["metric"].annotation) == (name,)


@pytest.mark.parametrize("name", SCORERS)
def test_a_metric_states_its_facts(name: str) -> None:
    cls = SCORERS[name]
    assert cls.direction in (1, -1, 0)
    assert cls.needs in ("prompt", "references", "pair")
    assert all((cls.title, cls.unit, cls.convention, cls.licence, cls.version))
    assert set(cls.weight_fields) <= set(cls.model_fields)


@pytest.mark.parametrize("name", SCORERS)
def test_scores_equal_a_slow_reference(
    name: str, world: dict[str, Path], weights_of: dict[str, Path], score: Any, toys: Any, tmp_path: Path
) -> None:
    rows = rows_of(build(name, weights_of), world, score, tmp_path)
    assert len(rows) == 4
    instances = [toys.paint(3)(number, 0) for number in range(3)]
    for row in rows:
        prompt = int(row.prompt_id[1:])
        pictures = (toys.paint(seed)(prompt, row.replicate) for seed in (1, 2))
        expected = REFERENCES[name](weights_of, *pictures, PROMPTS[prompt], instances)
        assert row.value == pytest.approx(expected, abs=2e-5 * max(1, abs(expected)))


@pytest.mark.parametrize("name", SCORERS)
def test_a_score_does_not_depend_on_what_is_known_already(
    name: str, world: dict[str, Path], weights_of: dict[str, Path], score: Any, tmp_path: Path
) -> None:
    metric = build(name, weights_of)
    cells: dict[str, bytes] = {}
    fresh = rows_of(metric, world, score, tmp_path / "fresh", cells=cells)
    half = dict(list(cells.items())[::2])
    assert rows_of(metric, world, score, tmp_path / "half", cells=half) == fresh
    assert half == cells


@pytest.mark.parametrize("name", SCORERS)
def test_known_pictures_are_never_opened_again(
    name: str, world: dict[str, Path], weights_of: dict[str, Path], score: Any, tmp_path: Path, toys: Any
) -> None:
    metric, cells = build(name, weights_of), {}
    fresh = rows_of(metric, world, score, tmp_path / "fresh", cells=cells)
    gone = {key: tmp_path / key for key in world}
    for key, folder in gone.items():
        folder.mkdir()
        (folder / "records.jsonl").write_bytes((world[key] / "records.jsonl").read_bytes())
    assert rows_of(metric, gone, score, tmp_path / "again", cells=cells) == fresh


@pytest.mark.parametrize("name", [name for name, cls in SCORERS.items() if cls.needs == "pair"])
def test_pair_metrics_know_equal_pictures(
    name: str, world: dict[str, Path], weights_of: dict[str, Path], score: Any, tmp_path: Path
) -> None:
    same = {**world, "candidate": world["base"]}
    values = {row.value for row in rows_of(build(name, weights_of), same, score, tmp_path)}
    assert values == {{"lpips": 0.0, "ssim": 1.0}[name]}


@pytest.mark.parametrize("name", SCORERS)
def test_a_missing_picture_is_a_row_with_its_reason(
    name: str, weights_of: dict[str, Path], score: Any, tmp_path: Path, toys: Any, world: dict[str, Path]
) -> None:
    holed = toys.image_set(tmp_path / "holed", toys.paint(1), PROMPTS, replicates=2)
    (holed / "images/p1-0.png").unlink()
    (holed / "images/p0-1.png").write_bytes(b"not a picture")
    rows = rows_of(build(name, weights_of), {**world, "base": holed}, score, tmp_path / "out")
    failed = {row.key: row.reason for row in rows if math.isnan(row.value)}
    assert failed == {("p1", 0): "picture file missing", ("p0", 1): "picture unreadable: UnidentifiedImageError"}
    assert all(row.reason == "" for row in rows if row.key not in failed)


@pytest.mark.parametrize("name", SCORERS)
def test_identity_ignores_what_cannot_change_a_score(name: str, weights_of: dict[str, Path]) -> None:
    metric = build(name, weights_of)
    moved = {field: "somewhere/else" for field in metric.weight_fields}
    primary = {"primary": True} if metric.direction else {}
    assert metric.model_copy(update={**moved, **primary}).identity() == metric.identity()
    assert metric.model_copy(update={"name": "other"}).identity() != metric.identity()


def test_lpips_with_learned_heads_equals_the_package(squeeze_trunk: Path) -> None:
    from eval.scorers.lpips import load_lpips

    ours = load_lpips("squeeze", squeeze_trunk, linear=True)
    theirs = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    theirs.net.load_state_dict(ours.net.state_dict())
    pictures = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(*pictures), theirs(*pictures))


def test_lpips_reads_torchvision_checkpoints_and_refuses_others(tmp_path: Path, squeeze_trunk: Path) -> None:
    from eval.errors import EvalError
    from eval.scorers.lpips import load_lpips

    whole = {f"features.{key}": tensor for key, tensor in load_file(squeeze_trunk).items()}
    torch.save({**whole, "classifier.1.bias": torch.zeros(3)}, tmp_path / "squeezenet.pth")
    loaded = load_lpips("squeeze", tmp_path / "squeezenet.pth", linear=False).state_dict()
    expected = load_lpips("squeeze", squeeze_trunk, linear=False).state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    with pytest.raises(EvalError, match=r"trunk\.safetensors: not the convolutions of 'alex'.*Set lpips\.net"):
        load_lpips("alex", squeeze_trunk, linear=False)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(EvalError, match=r"junk\.pth: cannot be read"):
        load_lpips("alex", tmp_path / "junk.pth", linear=False)


@pytest.mark.parametrize("name", [name for name, cls in SCORERS.items() if cls.direction == 0])
def test_a_describing_metric_cannot_be_primary(name: str, weights_of: dict[str, Path]) -> None:
    settings = {**build(name, weights_of).model_dump(), "primary": True}
    with pytest.raises(ValidationError, match="cannot be primary"):
        SCORERS[name].model_validate(settings)


def test_the_same_metric_twice_needs_names(clip_folder: Path) -> None:
    twice = [{"metric": "clip_score", "model": "one"}, {"metric": "clip_score", "model": "two"}]
    with pytest.raises(ValidationError, match="'clip_score' is there more than once; give each its own `name`"):
        EvaluationConfig.model_validate({"prompts": "p", "metrics": twice})
    twice[1]["name"] = "clip_score_2"
    metrics = EvaluationConfig.model_validate({"prompts": "p", "metrics": twice}).metrics
    assert [metric.id for metric in metrics] == ["clip_score", "clip_score_2"]


def test_unknown_metrics_and_settings_are_refused() -> None:
    for metric, message in (({"metric": "clip"}, "'clip_score'"), ({"metric": "ssim", "windw": 3}, "windw")):
        with pytest.raises(ValidationError, match=message):
            EvaluationConfig.model_validate({"prompts": "p", "metrics": [metric]})


def test_reading_a_configuration_imports_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "scipy", "matplotlib", "pyarrow"]
    code = f"import eval.config, sys; print([name for name in {heavy} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "[]"
