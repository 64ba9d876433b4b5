"""Reading image sets and datasets: what is refused and how it is said, and which pictures can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.images import open_rgb, read_image_set, read_references
from eval.score import METRICS_FILE, Weights
from eval.scorers.base import Metric
from eval.scorers.ssim import Ssim
from eval.table import read_scores

SSIM = Ssim(metric="ssim")


def test_a_folder_that_is_no_image_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=r"expected records\.jsonl"):
        read_image_set(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"records\.jsonl line 2: not JSON"),
        ("[]", r"records\.jsonl line 2: expected a JSON object, got list"),
        ('{"file": "x"}', r"records\.jsonl line 2: no field 'image_sha256'; it has \['file'\]"),
    ],
)
def test_a_bad_record_is_refused_by_line(tmp_path: Path, toys: Any, line: str, message: str) -> None:
    folder = toys.image_set(tmp_path / "set", toys.paint(1), ["one"])
    with (folder / "records.jsonl").open("a") as records:
        records.write(line + "\n")
    with pytest.raises(EvalError, match=message):
        read_image_set(folder)


def test_a_repeated_record_is_refused(tmp_path: Path, toys: Any) -> None:
    records = toys.image_set(tmp_path / "set", toys.paint(1), ["one"]) / "records.jsonl"
    records.write_text(records.read_text() * 2)
    with pytest.raises(EvalError, match="prompt 'p0', replicate 0 is there twice"):
        read_image_set(tmp_path / "set")


def test_changed_pixels_are_refused(tmp_path: Path, toys: Any, score: Any) -> None:
    painters = {"base": toys.paint(1), "candidate": toys.paint(3)}
    folders = {name: toys.image_set(tmp_path / name, painter, ["one"]) for name, painter in painters.items()}
    Image.fromarray(toys.paint(2)(0, 0)).save(folders["base"] / "images/p0-0.png")
    with pytest.raises(EvalError, match=r"p0-0\.png: .*changed after it was made"):
        score(SSIM, tmp_path / "out", **folders)


def test_pairs_from_different_noise_or_of_different_size(tmp_path: Path, toys: Any, score: Any) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), ["one", "two"])
    small = toys.image_set(tmp_path / "small", toys.paint(1, side_px=16), ["one", "two"])
    reasons = {row.reason for row in read_scores(score(SSIM, tmp_path / "out", base=base, candidate=small))}
    assert reasons == {"sizes differ: 32x32 against 16x16"}
    records = small / "records.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    toys.lines(records, [{**line, "seed": 5} for line in lines])
    with pytest.raises(EvalError, match=r"'p0', replicate 0: .*differ in prompt or seed \(0 against 5\)"):
        score(SSIM, tmp_path / "out", base=base, candidate=small)


def test_a_metric_that_cannot_be_measured_says_why_and_leaves_the_others_alone(
    tmp_path: Path, toys: Any, evaluation: EvaluationConfig, score: Any
) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), ["one"])
    clip_i, clip_score, lpips, _ = evaluation.metrics
    one_picture = toys.dataset(tmp_path / "r", [np.zeros((4, 4, 3), np.uint8)])

    def not_run(metric: Metric, references: Path | None = one_picture, **places: Path) -> str:
        weights = {"ssim": Weights({}, {}), metric.id: Weights(places, dict.fromkeys(places, "0"))}
        both = {"base": base, "candidate": base, "references": references}
        out = score([metric, SSIM], tmp_path / "out", weights=weights, **both)
        assert [row.value for row in read_scores(out) if row.metric_id == "ssim"] == [1.0]
        assert not [row for row in read_scores(out) if row.metric_id == metric.id]
        reasons = {facts["name"]: facts["not_run"] for facts in json.loads((out / METRICS_FILE).read_text())}
        assert reasons["ssim"] == ""
        return str(reasons[metric.id])

    assert not_run(clip_i, model=tmp_path / "nowhere") == "model: no such file or folder: nowhere"
    assert not_run(clip_i, None, model=tmp_path) == "needs instance pictures to compare with, and there are none"
    assert "no config.json in it; expected a CLIP model in a transformers folder" in not_run(clip_score, model=tmp_path)
    broken = tmp_path / "trunk.safetensors"
    broken.write_bytes(b"junk")
    assert "trunk.safetensors: cannot be read" in not_run(lpips, trunk=broken)


def test_an_empty_dataset_is_no_reference(tmp_path: Path, toys: Any) -> None:
    with pytest.raises(EvalError, match="no picture to compare with"):
        read_references(toys.dataset(tmp_path / "empty", []))


def test_progress_counts_what_is_open(tmp_path: Path, toys: Any, score: Any) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), ["one", "two"])
    seen: list[tuple[int, int]] = []
    cells: dict[str, bytes] = {}
    run = {"base": base, "candidate": base, "cells": cells, "progress": lambda *counts: seen.append(counts)}
    score(SSIM, tmp_path / "out", **run)
    assert seen == [(1, 2), (2, 2)]
    score(SSIM, tmp_path / "out", **run)
    assert len(seen) == 2


def test_photographs_of_every_kind_are_read_as_they_look(tmp_path: Path) -> None:
    ramp_HW = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(ramp_HW).save(tmp_path / "deep.png")
    assert np.abs(np.asarray(open_rgb(tmp_path / "deep.png"))[..., 0] - ramp_HW / 257).max() <= 0.5

    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_rgb(tmp_path / "clear.png")).min() == 255

    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert open_rgb(tmp_path / "print.jpg").getpixel((0, 0))[0] > 200

    lying = Image.new("RGB", (8, 4))
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    lying.save(tmp_path / "lying.jpg", exif=exif)
    assert open_rgb(tmp_path / "lying.jpg").size == (4, 8)
