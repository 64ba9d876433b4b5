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
from eval.score import score_metric
from eval.scorers.ssim import Ssim

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


def test_changed_pixels_are_refused(tmp_path: Path, toys: Any) -> None:
    folders = {name: toys.image_set(tmp_path / name, toys.paint(1), ["one"]) for name in ("base", "candidate")}
    Image.fromarray(toys.paint(2)(0, 0)).save(folders["base"] / "images/p0-0.png")
    with pytest.raises(EvalError, match=r"p0-0\.png: .*changed after it was made"):
        score_metric(metric=SSIM, weights={}, weights_digests={}, out=tmp_path / "out", cells={}, **folders)


def test_pairs_from_different_noise_or_of_different_size(tmp_path: Path, toys: Any) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), ["one", "two"])
    small = toys.image_set(tmp_path / "small", toys.paint(1, side_px=16), ["one", "two"])
    run = {"metric": SSIM, "weights": {}, "weights_digests": {}, "cells": {}}
    summary = score_metric(**run, base=base, candidate=small, out=tmp_path / "out")
    assert summary == {"metric": "ssim", "model_id": "pair", "scored": 0, "not_scored": 2, "truncated_prompts": 0}
    records = small / "records.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    toys.lines(records, [{**line, "seed": 5} for line in lines])
    with pytest.raises(EvalError, match=r"'p0', replicate 0: .*differ in prompt or seed \(0 against 5\)"):
        score_metric(**run, base=base, candidate=small, out=tmp_path / "out")


def test_missing_weights_and_references_are_named(tmp_path: Path, toys: Any, evaluation: EvaluationConfig) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), ["one"])
    clip_i = evaluation.metrics[0]
    run = {"metric": clip_i, "weights_digests": {"model": "0"}, "base": base, "out": tmp_path / "out", "cells": {}}
    with pytest.raises(EvalError, match="metric clip_i: model: no such file or folder: nowhere"):
        score_metric(**run, weights={"model": tmp_path / "nowhere"})
    with pytest.raises(EvalError, match="metric clip_i: needs instance pictures"):
        score_metric(**run, weights={"model": tmp_path})
    with pytest.raises(EvalError, match=r"no config\.json in it; expected a transformers CLIP model folder"):
        score_metric(
            **run, weights={"model": tmp_path}, references=toys.dataset(tmp_path / "r", [np.zeros((4, 4, 3), np.uint8)])
        )


def test_an_empty_dataset_is_no_reference(tmp_path: Path, toys: Any) -> None:
    with pytest.raises(EvalError, match="no picture to compare with"):
        read_references(toys.dataset(tmp_path / "empty", []))


def test_progress_counts_every_picture(tmp_path: Path, toys: Any) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), ["one", "two"])
    seen: list[tuple[int, int]] = []
    score_metric(
        metric=SSIM,
        weights={},
        weights_digests={},
        base=base,
        candidate=base,
        out=tmp_path / "out",
        cells={},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]


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
