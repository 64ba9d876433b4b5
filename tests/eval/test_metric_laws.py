"""What holds for every registered metric. A new metric fails here until it is complete."""

from __future__ import annotations

import math
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import lpips
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import eval.scorers
import tests.eval.references
from eval.config import EvaluationConfig
from eval.scorers import SCORERS
from eval.scorers.base import Kind, Metric, missing_package
from eval.table import INSTANCES, Row, read_scores
from tests.eval.conftest import reference_of
from tests.eval.references import Case


def build(name: str, toy_weights: ToyWeights) -> Metric:
    """With toy weights. Skips the test where the metric needs what is not installed."""
    if missing := missing_package(SCORERS[name]):
        pytest.skip(missing)
    places = {field: str(place) for field, place in toy_weights(name).items()}
    return SCORERS[name].model_validate({"metric": name, **places, **getattr(reference_of(name), "SETTINGS", {})})


ToyWeights = Callable[[str], Mapping[str, Path]]
SIMPLE = [name for name, cls in SCORERS.items() if cls.scored in ("picture", "pair")]
PROMPTS = ("a photo of a person", "a drawing " * 30)  # the second is longer than 77 tokens
FRAMES = ("a person walks", "a person sits", "a person sleeps")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, toys: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("world")
    return {
        "base": toys.image_set(folder / "base", toys.paint(1), PROMPTS, replicates=2),
        "candidate": toys.image_set(folder / "candidate", toys.paint(2), PROMPTS, replicates=2),
        "frames": toys.storyboards(folder / "frames", toys.paint(1), {"b": FRAMES}, replicates=2),
        "references": toys.dataset(folder / "references", [toys.paint(3)(number, 0) for number in range(3)]),
    }


def sets_for(metric: Metric, world: dict[str, Path]) -> dict[str, Path]:
    if metric.scored in ("pair", "versus"):
        return {key: world[key] for key in ("base", "candidate", "references")}
    return {"base": world["frames" if metric.scored == "board" else "base"], "references": world["references"]}


def rows_of(metric: Metric, world: dict[str, Path], score: Any, out: Path, **more: Any) -> tuple[Row, ...]:
    """Of generated pictures; instance pictures may have scores of their own."""
    rows = read_scores(score(metric, out, **sets_for(metric, world), **more))
    return tuple(row for row in rows if row.model_id != INSTANCES)


def test_every_file_among_the_scorers_is_registered_and_tested() -> None:
    modules = {module.name for module in pkgutil.iter_modules(eval.scorers.__path__)} - {"base"}
    references = {module.name for module in pkgutil.iter_modules(tests.eval.references.__path__)}
    assert modules == set(SCORERS) == references


@pytest.mark.parametrize("name", SCORERS)
def test_a_metric_is_registered_under_its_own_name(name: str) -> None:
    assert get_args(SCORERS[name].model_fields["metric"].annotation) == (name,)


@pytest.mark.parametrize("name", SCORERS)
def test_a_metric_states_its_facts(name: str) -> None:
    cls = SCORERS[name]
    assert cls.direction in (1, -1, 0)
    assert cls.scored in get_args(Kind)
    assert all((cls.title, cls.unit, cls.convention, cls.licence, cls.version))
    assert set(cls.weight_fields) | set(cls.picture_fields) <= set(cls.model_fields)


@pytest.mark.parametrize("name", SCORERS)
def test_scores_equal_a_slow_reference(
    name: str, world: dict[str, Path], toy_weights: ToyWeights, score: Any, toys: Any, tmp_path: Path
) -> None:
    metric = build(name, toy_weights)
    rows = rows_of(metric, world, score, tmp_path)
    assert len(rows) == {"picture": 4, "pair": 4, "versus": 8, "prompt": 2, "board": 2, "set": 1}[metric.scored]
    instances = [toys.paint(3)(number, 0) for number in range(3)]
    for row in rows:
        prompt = int(row.prompt_id[1:] or 0)
        pictures = {
            "picture": lambda p=prompt, r=row.replicate: [toys.paint(1)(p, r)],
            "pair": lambda p=prompt, r=row.replicate: [toys.paint(seed)(p, r) for seed in (1, 2)],
            "versus": lambda p=prompt, r=row.replicate, sides=(1, 2) if row.model_id == "base" else (2, 1): [
                toys.paint(seed)(p, r) for seed in sides
            ],
            "prompt": lambda p=prompt: [toys.paint(1)(p, replicate) for replicate in (0, 1)],
            "board": lambda r=row.replicate: [toys.paint(1)(p, r) for p in range(len(FRAMES))],
            "set": lambda: [toys.paint(1)(p, replicate) for p in (0, 1) for replicate in (0, 1)],
        }[metric.scored]()
        expected = reference_of(name).reference(Case(toy_weights(name), pictures, PROMPTS[prompt], instances))
        assert row.value == pytest.approx(expected, abs=2e-5 * max(1, abs(expected))), row.reason


@pytest.mark.parametrize("name", SCORERS)
def test_a_score_does_not_depend_on_what_is_known_already(
    name: str, world: dict[str, Path], toy_weights: ToyWeights, score: Any, tmp_path: Path
) -> None:
    metric = build(name, toy_weights)
    cells: dict[str, bytes] = {}
    fresh = rows_of(metric, world, score, tmp_path / "fresh", cells=cells)
    half = dict(list(cells.items())[::2])
    assert rows_of(metric, world, score, tmp_path / "half", cells=half) == fresh
    assert half == cells


@pytest.mark.parametrize("name", SCORERS)
def test_known_pictures_are_never_opened_again(
    name: str, world: dict[str, Path], toy_weights: ToyWeights, score: Any, tmp_path: Path, toys: Any
) -> None:
    metric, cells = build(name, toy_weights), {}
    fresh = rows_of(metric, world, score, tmp_path / "fresh", cells=cells)
    gone = {key: tmp_path / key for key in world}
    for key, folder in gone.items():
        folder.mkdir()
        (folder / "records.jsonl").write_bytes((world[key] / "records.jsonl").read_bytes())
    assert rows_of(metric, gone, score, tmp_path / "again", cells=cells) == fresh


@pytest.mark.parametrize("name", [name for name, cls in SCORERS.items() if cls.scored == "pair"])
def test_pair_metrics_know_equal_pictures(
    name: str, world: dict[str, Path], toy_weights: ToyWeights, score: Any, tmp_path: Path
) -> None:
    same = {**world, "candidate": world["base"]}
    values = {row.value for row in rows_of(build(name, toy_weights), same, score, tmp_path)}
    assert values == {{"lpips": 0.0, "ssim": 1.0, "background_ssim": 1.0}[name]}


@pytest.mark.parametrize("name", SIMPLE)
def test_a_missing_picture_is_a_row_with_its_reason(
    name: str, toy_weights: ToyWeights, score: Any, tmp_path: Path, toys: Any, world: dict[str, Path]
) -> None:
    holed = toys.image_set(tmp_path / "holed", toys.paint(1), PROMPTS, replicates=2)
    (holed / "images/p1-0.png").unlink()
    (holed / "images/p0-1.png").write_bytes(b"not a picture")
    rows = rows_of(build(name, toy_weights), {**world, "base": holed}, score, tmp_path / "out")
    failed = {row.key: row.reason for row in rows if math.isnan(row.value)}
    assert failed == {("p1", 0): "picture file missing", ("p0", 1): "picture unreadable: UnidentifiedImageError"}
    assert all(row.reason == "" for row in rows if row.key not in failed)


@pytest.mark.parametrize("name", SCORERS)
def test_identity_ignores_what_cannot_change_a_score(name: str, toy_weights: ToyWeights) -> None:
    metric = build(name, toy_weights)
    moved = {field: "somewhere/else" for field in (*metric.weight_fields, *metric.picture_fields)}
    primary = {"primary": True} if metric.direction else {}
    assert metric.model_copy(update={**moved, **primary}).identity() == metric.identity()
    assert metric.model_copy(update={"name": "other"}).identity() != metric.identity()


def test_lpips_with_learned_heads_equals_the_package(squeeze_trunk: Path) -> None:
    from eval.perceptual import load_lpips

    ours = load_lpips("squeeze", squeeze_trunk, linear=True)
    theirs = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    theirs.net.load_state_dict(ours.net.state_dict())
    pictures = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(*pictures), theirs(*pictures))


def test_lpips_reads_torchvision_checkpoints_and_refuses_others(tmp_path: Path, squeeze_trunk: Path) -> None:
    from eval.errors import EvalError
    from eval.perceptual import load_lpips

    whole = {f"features.{key}": tensor for key, tensor in load_file(squeeze_trunk).items()}
    torch.save({**whole, "classifier.1.bias": torch.zeros(3)}, tmp_path / "squeezenet.pth")
    loaded = load_lpips("squeeze", tmp_path / "squeezenet.pth", linear=False).state_dict()
    expected = load_lpips("squeeze", squeeze_trunk, linear=False).state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    with pytest.raises(EvalError, match=r"trunk\.safetensors: not the convolutions of 'alex'.*Set `net`"):
        load_lpips("alex", squeeze_trunk, linear=False)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(EvalError, match=r"junk\.pth: cannot be read"):
        load_lpips("alex", tmp_path / "junk.pth", linear=False)


@pytest.mark.parametrize("name", [name for name, cls in SCORERS.items() if cls.direction == 0])
def test_a_describing_metric_cannot_be_primary(name: str, toy_weights: ToyWeights) -> None:
    settings = {**build(name, toy_weights).model_dump(), "primary": True}
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
