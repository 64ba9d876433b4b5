"""Distances between sets of pictures, and the folders of pictures that they are measured from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.image.kid import poly_mmd

from eval.scorers import SCORERS
from eval.scorers.base import Metric
from eval.scorers.cmmd import gaussian
from eval.scorers.kid import cubic
from eval.sets import ROWS, biased_mmd, unbiased_mmd
from eval.table import Row, read_scores
from tests.eval.references.cmmd import distance

PROMPTS = ("one", "two", "three")


def unit_vectors(seed: int, count: int, width: int = 6) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(0.3, 1, (count, width))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_the_kernel_distance_is_torchmetrics_own_where_sides_are_equal() -> None:
    x, y = unit_vectors(0, ROWS + 20), unit_vectors(1, ROWS + 20)  # more than one strip
    theirs = poly_mmd(torch.from_numpy(x), torch.from_numpy(y), gamma=1.0)
    assert unbiased_mmd(cubic, x, y) == pytest.approx(float(theirs), rel=1e-9)
    scaled = np.sqrt(x.shape[1])  # their default on vectors of squared length D
    default = poly_mmd(torch.from_numpy(scaled * x), torch.from_numpy(scaled * y))
    assert unbiased_mmd(cubic, x, y) == pytest.approx(float(default), rel=1e-9)


def test_cmmd_is_its_three_double_loops_where_sides_are_equal() -> None:
    x, y = unit_vectors(0, 40), unit_vectors(1, 40)
    assert 1000 * biased_mmd(gaussian, x, y) == pytest.approx(distance(x.tolist(), y.tolist()), rel=1e-9)


def test_random_subsets_approach_what_is_computed_without_them() -> None:
    x, y = unit_vectors(0, 30), unit_vectors(1, 8)
    rng = np.random.default_rng(0)
    draws = [x[rng.permutation(30)[:8]] for _ in range(2000)]
    biased = [biased_mmd(gaussian, some, y) for some in draws]
    unbiased = [unbiased_mmd(cubic, some, y) for some in draws]
    for drawn, whole in ((biased, biased_mmd(gaussian, x, y)), (unbiased, unbiased_mmd(cubic, x, y))):
        assert whole == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(len(drawn)))
        assert whole != drawn[0]


def test_a_set_compared_with_itself() -> None:
    x = unit_vectors(0, 20)
    assert biased_mmd(gaussian, x, x) == pytest.approx(0, abs=1e-12)
    assert unbiased_mmd(cubic, x, x) < 0  # its own pictures no longer count as alike


@pytest.fixture(params=["kid", "cmmd"])
def build(request: pytest.FixtureRequest, clip_folder: Path) -> Any:
    def built(**settings: Any) -> Metric:
        return SCORERS[request.param].model_validate({"metric": request.param, "model": str(clip_folder), **settings})

    return built


def only_row(scores: Path) -> Row:
    (row,) = read_scores(scores)
    return row


def not_run(scores: Path) -> str:
    (facts,) = json.loads((scores / "metrics.json").read_text())
    return str(facts["not_run"])


def write_pictures(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
    return folder


def test_a_folder_stands_in_for_the_instance_pictures(build: Any, toys: Any, score: Any, tmp_path: Path) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), PROMPTS)
    pictures = [toys.paint(3)(number, 0) for number in range(3)]
    references = toys.dataset(tmp_path / "references", pictures)
    others = toys.dataset(tmp_path / "others", [toys.paint(9)(number, 0) for number in range(3)])
    expected = only_row(score(build(), tmp_path / "a", base=base, references=references)).value
    assert only_row(score(build(), tmp_path / "b", base=base, references=others)).value != pytest.approx(expected)

    folder = write_pictures(
        tmp_path / "folder",
        {"z.png": pictures[0], "deep/er/a.PNG": pictures[1], "m.png": pictures[2], "again.png": pictures[2]},
    )
    write_pictures(folder, {".hidden.png": toys.paint(5)(0, 0), ".git/x.png": toys.paint(5)(1, 0)})
    (folder / "notes.txt").write_text("no picture")
    metric = build(pictures=str(folder))
    assert only_row(score(metric, tmp_path / "c", base=base)).value == pytest.approx(expected, rel=1e-9)
    assert only_row(score(metric, tmp_path / "d", base=base, references=others)).value == pytest.approx(expected)


def test_a_folder_that_does_not_do_is_refused(build: Any, toys: Any, score: Any, tmp_path: Path) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), PROMPTS)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("no picture")
    metric = build(pictures=str(folder))
    assert not_run(score(metric, tmp_path / "a", base=base)).startswith(
        "pictures: no picture in folder; expected .avif"
    )
    write_pictures(folder, {"a.png": toys.paint(3)(0, 0), "b.png": toys.paint(3)(1, 0)})
    (folder / "c.png").write_bytes(b"not a picture")
    reason = not_run(score(metric, tmp_path / "b", base=base))
    assert reason.startswith("c.png, to compare with: picture unreadable: UnidentifiedImageError")
    assert "there are none" in not_run(score(build(), tmp_path / "c", base=base))


def test_two_pictures_a_side_are_the_least(build: Any, toys: Any, score: Any, tmp_path: Path) -> None:
    one, two = (toys.image_set(tmp_path / f"{count}", toys.paint(1), PROMPTS[:count]) for count in (1, 2))
    few, many = (toys.dataset(tmp_path / f"r{n}", [toys.paint(3)(i, 0) for i in range(n)]) for n in (1, 3))
    reasons = [
        only_row(score(build(), tmp_path / f"{number}", base=base, references=references)).reason
        for number, (base, references) in enumerate([(one, many), (two, few), (two, many)])
    ]
    least = "expected two at least"
    assert reasons == [f"only 1 picture in the set; {least}", f"only 1 picture to compare with; {least}", ""]


def test_a_set_is_measured_whole_or_not_at_all(build: Any, toys: Any, score: Any, tmp_path: Path) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), PROMPTS)
    references = toys.dataset(tmp_path / "r", [toys.paint(3)(number, 0) for number in range(3)])
    (base / "images/p1-0.png").unlink()
    row = only_row(score(build(), tmp_path / "out", base=base, references=references))
    assert row.reason == "p1-0.png: picture file missing; a set is measured whole or not at all"
    assert not row.is_scored


def test_a_set_of_numbers_cannot_be_primary(build: Any) -> None:
    with pytest.raises(ValueError, match="one number of a whole set has no interval"):
        build(primary=True)
