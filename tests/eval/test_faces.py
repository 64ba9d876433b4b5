"""Face metrics: what the laws of all metrics do not cover. Most of it needs insightface, of the extra `faces`."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from eval.errors import NotScored
from eval.faces import FindFaces, faces_of, providers_for
from eval.pixels import pixels_1CHW
from eval.scorers.background_ssim import BackgroundSsim, SimilarityMap, mean_outside
from eval.scorers.base import Metric
from eval.scorers.face_detection import FaceDetection
from eval.scorers.face_similarity import FaceSimilarity
from eval.table import read_scores
from sdxl_core.miniature.render import render, render_empty
from sdxl_core.miniature.world import CHARACTERS, draw_view
from tests.eval.references.face_similarity import largest
from tests.eval.toy_faces import write_pack

MINIATURE = Path(__file__).parents[2] / "sdxl_core" / "miniature" / "weights" / "faces"
RED = np.full((32, 32, 3), (255, 0, 0), dtype=np.uint8)
"""In which the toy detector finds no face."""

ALL: dict[str, type[Metric]] = {
    "face_similarity": FaceSimilarity,
    "face_detection": FaceDetection,
    "background_ssim": BackgroundSsim,
}
SIDES = ("base", "candidate")


@pytest.fixture
def insightface() -> None:
    pytest.importorskip("insightface", reason="needs the extra `faces`")


def portrait(name: str, number: int) -> np.ndarray:
    rng = random.Random(f"test-faces/{name}/{number}")
    if name == "nobody":
        return np.asarray(render_empty(rng))
    return np.asarray(render(CHARACTERS[name].appear(rng, style="photo"), draw_view(rng)))


def values(score: Callable[..., Path], metric: Metric, out: Path, **sets: Any) -> dict[str, tuple[float, str]]:
    return {row.prompt_id: (row.value, row.reason) for row in read_scores(score(metric, out, **sets))}


def test_a_pack_is_a_local_folder() -> None:
    """insightface would download a pack of a name that it finds no folder of."""
    for place in ("buffalo_l", "immich-app/buffalo_l"):
        with pytest.raises(ValidationError, match=r"expected a local folder, .* got .*; no pack is ever downloaded"):
            FaceDetection(metric="face_detection", pack=place)


@pytest.mark.parametrize("sides", [(), (100,), (0,)])
def test_sizes_that_a_detector_cannot_have_are_refused(sides: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="det_size"):
        FaceDetection(metric="face_detection", pack="/pack", det_size=sides)


def test_settings_that_move_boxes_are_in_the_question(tmp_path: Path) -> None:
    pack = write_pack(tmp_path)
    ask = FindFaces(pack, "digest", (128, 640), 0.5, "cpu")
    others = [("other", (128, 640), 0.5), ("digest", (640,), 0.5), ("digest", (128, 640), 0.6)]
    specs = {FindFaces(pack, *settings, "cpu").spec for settings in others}
    assert len({*specs, ask.spec}) == 4
    assert FindFaces(pack, "digest", (128, 640), 0.5, "cuda").spec == ask.spec


def test_providers_follow_the_device() -> None:
    assert providers_for("cpu") == (["CPUExecutionProvider"], -1)
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert providers_for("cuda:1") == (["CPUExecutionProvider"], -1)


def test_the_three_metrics_ask_once_a_picture(
    insightface: None, score: Callable[..., Path], toys: Any, tmp_path: Path
) -> None:
    place = {"pack": str(write_pack(tmp_path / "pack")), "metric": ""}
    metrics = [cls.model_validate({**place, "metric": name}) for name, cls in ALL.items()]
    sets = {side: toys.image_set(tmp_path / side, toys.paint(seed), ["one", "two"]) for seed, side in enumerate(SIDES)}
    instances = toys.dataset(tmp_path / "instances", [toys.paint(9)(0, 0)])
    cells: dict[str, bytes] = {}
    score(metrics, tmp_path / "out", references=instances, cells=cells, **sets)
    assert len(cells) == 4 + 1 + 2  # faces in four pictures and an instance picture; two maps of pairs


def test_pictures_without_a_face(insightface: None, score: Callable[..., Path], toys: Any, tmp_path: Path) -> None:
    """They count in the detection rate, have no similarity, and are left out of the instance pictures."""
    pack = str(write_pack(tmp_path / "pack"))
    base = toys.image_set(tmp_path / "base", lambda n, r: RED if n else toys.paint(1)(n, r), ["face", "none"])
    found = values(score, FaceDetection(metric="face_detection", pack=pack), tmp_path / "found", base=base)
    assert found == {"p0": (1.0, ""), "p1": (0.0, "")}
    instance = toys.paint(9)(0, 0)
    for name, pictures in (("with", [RED, instance]), ("without", [instance])):
        references = toys.dataset(tmp_path / name, pictures)
        metric = FaceSimilarity(metric="face_similarity", pack=pack)
        scores = values(score, metric, tmp_path / f"{name}-out", base=base, references=references)
        assert math.isnan(scores["p1"][0]) and scores["p1"][1] == "no face found"
        one, other = (largest(Path(pack), picture).normed_embedding for picture in (toys.paint(1)(0, 0), instance))
        assert scores["p0"] == (pytest.approx(float(one @ other), abs=1e-5), "")


def not_run(score: Callable[..., Path], metric: Metric, out: Path, **sets: Any) -> str:
    folder = score(metric, out, **sets)
    (facts,) = json.loads((folder / "metrics.json").read_text())
    return str(facts["not_run"])


def test_packs_that_do_not_fit_say_so(insightface: None, score: Callable[..., Path], toys: Any, tmp_path: Path) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), ["one"])
    references = toys.dataset(tmp_path / "references", [RED])
    whole = write_pack(tmp_path / "whole")
    finds_only = write_pack(tmp_path / "finds_only", recogniser=False)
    no_points = write_pack(tmp_path / "no_points", landmarks=False)
    tells_only = write_pack(tmp_path / "tells_only")
    (tells_only / "det.onnx").unlink()
    broken = write_pack(tmp_path / "broken")
    (broken / "det.onnx").write_bytes(b"not a model")
    (tmp_path / "empty").mkdir()
    with_face = toys.dataset(tmp_path / "with_face", [toys.paint(9)(0, 0)])
    for pack, instances, reason in (
        (tmp_path / "empty", with_face, "empty is not a folder with ONNX models"),
        (whole, references, "no face found in any of the 1 instance pictures"),
        (finds_only, with_face, "no recogniser in it"),
        (no_points, with_face, "the detector in no_points gives no landmarks"),
        (tells_only, with_face, "tells_only has no face detector"),
        (broken, with_face, "broken cannot be loaded"),
    ):
        metric = FaceSimilarity(metric="face_similarity", pack=str(pack))
        out = tmp_path / f"out-{pack.name}"
        assert reason in not_run(score, metric, out, base=base, references=instances)
    metric = FaceDetection(metric="face_detection", pack=str(finds_only))
    assert not_run(score, metric, tmp_path / "finds", base=base) == ""


def grid_of(base: np.ndarray, candidate: np.ndarray) -> bytes:
    question = SimilarityMap("cpu")
    (answer,) = question.answer([question.prepare([], [Image.fromarray(base), Image.fromarray(candidate)])])
    return answer


def test_what_changes_inside_a_grown_box_does_not_count(toys: Any) -> None:
    """Where SSIM's window does not reach out of it."""
    base = toys.paint(1, side_px=200)(0, 0)
    candidate = base.copy()
    candidate[60:100, 80:120] = 255 - candidate[60:100, 80:120]
    grid = grid_of(base, candidate)
    assert mean_outside(grid, [(80, 60, 120, 100)], 0.25) == pytest.approx(1.0, abs=1e-6)
    assert mean_outside(grid, [(80, 60, 120, 100)], 0.0) == pytest.approx(1.0, abs=1e-6)  # half a window at least
    assert mean_outside(grid, [(150, 150, 190, 190)], 0.25) < 0.99


def test_without_a_face_it_is_ssim(toys: Any) -> None:
    base, candidate = (toys.paint(seed, side_px=150)(0, 0)[:100] for seed in (1, 2))
    whole = ssim(*(pixels_1CHW(Image.fromarray(picture)) for picture in (base, candidate)), data_range=1.0)
    assert mean_outside(grid_of(base, candidate), [], 0.25) == pytest.approx(float(whole), abs=1e-6)


def test_too_little_background_is_not_scored(toys: Any) -> None:
    grid = grid_of(toys.paint(1, side_px=100)(0, 0), toys.paint(2, side_px=100)(0, 0))
    assert mean_outside(grid, [(0, 0, 100, 80)], 0.0) < 1  # fifteen hundredths are left
    assert mean_outside(grid, [(0, 0, 100, 80)] * 3, 0.0) < 1  # boxes over the same place count once
    with pytest.raises(NotScored, match="faces fill more than nine tenths of the picture"):
        mean_outside(grid, [(0, 0, 100, 80)], 0.25)


def test_the_miniature_s_pack_finds_faces_and_tells_people_apart(
    insightface: None, score: Callable[..., Path], toys: Any, tmp_path: Path
) -> None:
    """In the world's renders, through insightface's own code; docs/miniature.md has the figures of many more."""
    shown = ["kestrel"] * 3 + ["corvo"] * 3 + ["elowen"] * 3 + ["nobody"] * 6
    base = toys.image_set(tmp_path / "base", lambda n, r: portrait(shown[n], n), shown)
    instances = toys.dataset(tmp_path / "instances", [portrait("kestrel", 100 + n) for n in range(4)])
    found = values(score, FaceDetection(metric="face_detection", pack=str(MINIATURE)), tmp_path / "found", base=base)
    assert [found[f"p{n}"][0] for n in range(len(shown))] == [1.0] * 9 + [0.0] * 6
    metric = FaceSimilarity(metric="face_similarity", pack=str(MINIATURE))
    alike = values(score, metric, tmp_path / "alike", base=base, references=instances)
    assert min(alike[f"p{n}"][0] for n in range(3)) > 0.8
    assert max(alike[f"p{n}"][0] for n in range(3, 9)) < 0.3


def test_the_miniature_s_boxes_hold_the_drawn_face(insightface: None) -> None:
    """Whatever the picture's size."""
    rng = random.Random("test-faces/boxes")
    person = CHARACTERS["kestrel"].appear(rng, style="photo")
    view = replace(draw_view(rng), dx=0.05, dy=0.02, scale=1.0, tilt=0.0)
    for side in (64, 256):
        question = FindFaces(MINIATURE, "digest", (128, 640), 0.5, "cpu")
        (answer,) = question.answer([question.prepare([], [render(person, view, side)])])
        found = faces_of(answer)
        assert found.boxes_N4 / side == pytest.approx(np.array([[0.38, 0.295, 0.72, 0.705]]), abs=0.04)
        assert np.linalg.norm(found.embeddings_ND[0]) == pytest.approx(1, abs=1e-6)


def test_a_changed_pack_is_refused(insightface: None, score: Callable[..., Path], toys: Any, tmp_path: Path) -> None:
    """By the digests in its manifest."""
    pack = tmp_path / "pack"
    pack.mkdir()
    for path in MINIATURE.iterdir():
        (pack / path.name).write_bytes(path.read_bytes())
    write_pack(tmp_path / "other")
    (pack / "recogniser.onnx").write_bytes((tmp_path / "other" / "rec.onnx").read_bytes())
    base = toys.image_set(tmp_path / "base", toys.paint(1), ["one"])
    metric = FaceDetection(metric="face_detection", pack=str(pack))
    assert "pack cannot be loaded" in not_run(score, metric, tmp_path / "out", base=base)
