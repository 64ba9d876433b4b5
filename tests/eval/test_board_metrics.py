"""Metrics of storyboards: what the laws of all metrics do not cover, and what their scores mean to a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval import stats
from eval.background import without_people
from eval.compare import compare
from eval.config import EvaluationConfig
from eval.errors import EvalError, NotScored
from eval.report import build_report
from eval.result import Comparison, read_comparison
from eval.scorers.base import Metric
from eval.scorers.frame_background import FrameBackground
from eval.scorers.frame_identity import FrameIdentity
from eval.scorers.frame_likeness import FrameLikeness
from eval.table import Row, read_scores
from tests.eval.pages import Page
from tests.eval.references.face_similarity import largest
from tests.eval.toy_faces import write_pack

WORDS = ("walks", "sits", "sleeps", "reads")
RED = np.full((32, 32, 3), (255, 0, 0), dtype=np.uint8)
"""In which the toy detector finds no face."""


@pytest.fixture
def insightface() -> None:
    pytest.importorskip("insightface", reason="needs the extra `faces`")


@pytest.fixture
def likeness(clip_folder: Path) -> FrameLikeness:
    return FrameLikeness(metric="frame_likeness", model=str(clip_folder))


def rows(scores: Path) -> dict[tuple[str, str, int], Row]:
    return {(row.model_id, row.prompt_id, row.replicate): row for row in read_scores(scores)}


def facts(scores: Path) -> dict[str, Any]:
    (found,) = json.loads((scores / "metrics.json").read_text())
    return dict(found)


def test_frames_are_taken_in_order_and_others_not_at_all(
    toys: Any, score: Any, likeness: Metric, tmp_path: Path
) -> None:
    base = toys.storyboards(tmp_path / "set", toys.paint(1), {"b": WORDS, "a": WORDS[:2]}, replicates=2, alone=3)
    lines = [json.loads(line) for line in (base / "records.jsonl").read_text().splitlines()]
    toys.lines(base / "records.jsonl", lines[::-1])
    found = rows(score(likeness, tmp_path / "out", base=base))
    assert set(found) == {("base", name, replicate) for name in "ab" for replicate in (0, 1)}
    digests = {(line["storyboard"], line["replicate"], line["frame"]): line["image_sha256"] for line in lines[6:]}
    for (_, name, replicate), row in found.items():
        frames = range(1, 5 if name == "b" else 3)
        assert row.image_digest == "+".join(digests[name, replicate, frame] for frame in frames)
        assert row.seed == 100 * "ba".index(name) + replicate


def test_equal_frames_are_wholly_alike(toys: Any, score: Any, likeness: Metric, tmp_path: Path) -> None:
    base = toys.storyboards(tmp_path / "set", lambda p, r: toys.paint(1)(0, 0), {"b": WORDS})
    assert rows(score(likeness, tmp_path / "out", base=base))["base", "b", 0].value == pytest.approx(1, abs=1e-6)


def test_one_frame_is_too_few_and_a_broken_one_is_named(
    toys: Any, score: Any, likeness: Metric, tmp_path: Path
) -> None:
    base = toys.storyboards(tmp_path / "set", toys.paint(1), {"one": WORDS[:1], "b": WORDS})
    (base / "images/p3-0.png").unlink()
    found = rows(score(likeness, tmp_path / "out", base=base))
    reasons = {name: row.reason for (_, name, _), row in found.items()}
    assert reasons == {"one": "1 of 1 frames to compare; two are the least", "b": "frame 3: picture file missing"}
    assert all(math.isnan(row.value) for row in found.values())


def test_frames_without_a_face_are_left_out_and_counted(
    insightface: None, toys: Any, score: Any, tmp_path: Path
) -> None:
    """Of the first board every second frame has none, of the second all but one."""
    pack = write_pack(tmp_path / "pack")
    faceless = {1, 3, 4, 5, 6}
    paint = toys.paint(1)
    base = toys.storyboards(
        tmp_path / "set", lambda p, r: RED if p in faceless else paint(p, r), {"b": WORDS, "none": WORDS}
    )
    scores = score(FrameIdentity(metric="frame_identity", pack=str(pack)), tmp_path / "out", base=base)
    found = rows(scores)
    one, other = (largest(pack, paint(p, 0)).normed_embedding for p in (0, 2))
    assert found["base", "b", 0].value == pytest.approx(float(one @ other), abs=1e-5)
    assert found["base", "none", 0].reason == "1 of 4 frames show a face; two are the least"
    assert facts(scores)["left_out"] == {"base": 2}


def test_a_pack_that_knows_no_faces_and_one_that_is_broken(
    insightface: None, toys: Any, score: Any, clip_folder: Path, tmp_path: Path
) -> None:
    base = toys.storyboards(tmp_path / "set", toys.paint(1), {"b": WORDS})
    nameless = str(write_pack(tmp_path / "nameless", recogniser=False))
    reason = facts(score(FrameIdentity(metric="frame_identity", pack=nameless), tmp_path / "a", base=base))["not_run"]
    assert reason.startswith("pack: no recogniser in it")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "det.onnx").write_bytes(b"junk")
    metric = FrameBackground(metric="frame_background", model=str(clip_folder), pack=str(broken))
    assert facts(score(metric, tmp_path / "b", base=base))["not_run"].startswith("pack: broken")


def test_people_are_painted_over_and_the_rest_is_not() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 80, 3), dtype=np.uint8))
    box = np.array([[30.0, 20.0, 40.0, 32.0]])
    painted = np.asarray(without_people(picture, box, (255, 255, 255)))
    hidden = (painted == 255).all(axis=2)
    assert hidden[14:32, 25:45].all() and hidden[32:, 20:50].all() and hidden.sum() == 18 * 20 + 68 * 30
    assert np.array_equal(painted[~hidden], np.asarray(picture)[~hidden])
    assert np.array_equal(np.asarray(without_people(picture, np.empty((0, 4)), (0, 0, 0))), np.asarray(picture))
    with pytest.raises(NotScored, match="people fill more than nine tenths"):
        without_people(picture, np.array([[10.0, 5.0, 70.0, 20.0]]), (0, 0, 0))


def test_frames_that_people_fill_are_left_out(
    insightface: None, toys: Any, score: Any, clip_folder: Path, tmp_path: Path
) -> None:
    """Where red is high the toy detector's faces are low; painted over, they leave more than a tenth of the picture."""
    pack = write_pack(tmp_path / "pack")
    colour = {1: (0, 0, 90)}
    paint = toys.paint(1)
    base = toys.storyboards(
        tmp_path / "set", lambda p, r: np.uint8(colour.get(p, (200, 60, 120))) + paint(p, r) // 9, {"b": WORDS[:3]}
    )
    metric = FrameBackground(metric="frame_background", model=str(clip_folder), pack=str(pack))
    scores = score(metric, tmp_path / "out", base=base)
    assert facts(scores)["left_out"] == {"base": 1} and rows(scores)["base", "b", 0].reason == ""


def test_the_background_is_embedded_once_and_shares_the_faces(
    insightface: None, toys: Any, score: Any, clip_folder: Path, tmp_path: Path
) -> None:
    pack, model = str(write_pack(tmp_path / "pack")), str(clip_folder)
    base = toys.storyboards(tmp_path / "set", toys.paint(1), {"b": WORDS})
    metrics = (
        FrameIdentity(metric="frame_identity", pack=pack, det_thresh=0.85),
        FrameBackground(metric="frame_background", model=model, pack=pack, det_thresh=0.85),
        FrameLikeness(metric="frame_likeness", model=model),
    )
    cells: dict[str, bytes] = {}
    score(metrics, tmp_path / "out", base=base, cells=cells)
    assert len(cells) == 3 * len(WORDS)  # faces, the whole picture, the picture without people


def compared(
    metrics: Sequence[Metric], score: Any, tmp_path: Path, strict: bool = False, **sets: Path
) -> Callable[[], Comparison]:
    listed = [metric.model_dump(mode="json") for metric in metrics]
    document = {"prompts": "p", "resamples": 999, "strict": strict, "metrics": listed}
    evaluation = EvaluationConfig.model_validate(document)
    scores = score(evaluation.metrics, tmp_path / "scores", **sets)

    def run() -> Comparison:
        compare(evaluation=evaluation, scores=scores, out=tmp_path / "comparison")
        return read_comparison(tmp_path / "comparison")

    return run


def sides(toys: Any, folder: Path, boards: int, alone: int = 0, replicates: int = 1) -> dict[str, Path]:
    names = {f"b{number}": WORDS for number in range(boards)}
    return {
        side: toys.storyboards(folder / side, toys.paint(seed), names, replicates, alone)
        for seed, side in enumerate(("base", "candidate"))
    }


@pytest.mark.parametrize("boards", [1, 2, 5])
def test_few_boards_give_numbers_and_no_inference(
    boards: int, toys: Any, score: Any, likeness: Metric, tmp_path: Path
) -> None:
    found = compared([likeness], score, tmp_path, **sides(toys, tmp_path, boards, replicates=2))()
    (metric,) = found.judged
    assert (metric.prompts, metric.storyboards, metric.pairs) == (boards, boards, 2 * boards)
    assert (metric.outcome, metric.delta_interval, metric.detectable_d_z) == ("too_few_prompts", None, None)
    assert math.isfinite(metric.delta) and metric.is_indicative and found.outcome == "not_judged"


def test_six_boards_are_judged(toys: Any, score: Any, likeness: Metric, tmp_path: Path) -> None:
    boards = 6
    assert stats.fewest_prompts(0.05) == boards
    found = compared([likeness], score, tmp_path, **sides(toys, tmp_path, boards))()
    (metric,) = found.judged
    values = rows(tmp_path / "scores")
    deltas = np.array([values["candidate", f"b{n}", 0].value - values["base", f"b{n}", 0].value for n in range(boards)])
    assert metric.delta == pytest.approx(deltas.mean())
    assert metric.p == pytest.approx(stats.sign_flip_p(deltas, 999, [0]))
    assert metric.delta_interval is not None and metric.outcome != "too_few_prompts"


def test_frames_of_a_board_are_one_prompt_to_metrics_of_pictures(
    toys: Any, score: Any, clip_folder: Path, tmp_path: Path
) -> None:
    document = {"metric": "clip_score", "model": str(clip_folder)}
    metrics = EvaluationConfig.model_validate({"prompts": "p", "metrics": [document, {"metric": "ssim"}]}).metrics
    found = compared(metrics, score, tmp_path, **sides(toys, tmp_path, boards=2, alone=5))()
    clip, ssim = found.judged[0], found.described[0]
    assert [(m.prompts, m.storyboards) for m in (clip, ssim, found)] == [(7, 2)] * 3
    assert clip.pairs == 5 + 2 * len(WORDS)
    table = [row for row in read_scores(tmp_path / "scores") if row.metric_id == "clip_score"]
    values = {(row.model_id, int(row.prompt_id[1:])): row.value for row in table}
    deltas = [values["candidate", p] - values["base", p] for p in range(13)]
    means = [*deltas[:5], np.mean(deltas[5:9]), np.mean(deltas[9:])]
    assert clip.delta == pytest.approx(np.mean(means)) and clip.spread == pytest.approx(np.std(means, ddof=1))


def test_without_storyboards_nothing_is_wrong(toys: Any, score: Any, likeness: Metric, tmp_path: Path) -> None:
    """Not even where a run should be strict; unless the metric was to decide."""
    sets = {side: toys.image_set(tmp_path / side, toys.paint(seed)) for seed, side in enumerate(("base", "candidate"))}
    found = compared([likeness], score, tmp_path, strict=True, **sets)()
    (missing,) = found.not_run
    assert missing.reason == "the prompt set has no storyboards"
    primary = likeness.model_copy(update={"primary": True})
    assert compared([primary], score, tmp_path / "primary", **sets)().outcome == "not_judged"


def test_strict_still_asks_for_weights(toys: Any, score: Any, likeness: Metric, tmp_path: Path) -> None:
    lost = likeness.model_copy(update={"model": str(tmp_path / "nowhere")})
    run = compared([lost], score, tmp_path, strict=True, **sides(toys, tmp_path, boards=1))
    with pytest.raises(
        EvalError, match=r"evaluation\.strict: .* frame_likeness: model: no such file or folder: nowhere"
    ):
        run()


def test_the_strip_shows_what_metrics_say(
    insightface: None, toys: Any, score: Any, likeness: Metric, tmp_path: Path
) -> None:
    faces = FrameIdentity(metric="frame_identity", pack=str(write_pack(tmp_path / "pack")))
    boards, paint = {"b": WORDS, "c": WORDS}, toys.paint(1)
    base = toys.storyboards(tmp_path / "base", lambda p, r: RED if p in (1, 4, 5, 6) else paint(p, r), boards)
    candidate = toys.storyboards(tmp_path / "candidate", toys.paint(2), boards)
    metrics = [likeness, faces]
    found = compared(metrics, score, tmp_path, base=base, candidate=candidate)()
    assert found.health.left_out == {"frame_identity": {"base": 1}}
    given = {"comparison": tmp_path / "comparison", "base": base, "candidate": candidate, "out": tmp_path / "out"}
    nothing = {"references": None, "training": None, "provenance": {}, "command": "", "config_yaml": ""}
    build_report(title="boards", **given, **nothing)
    text = (tmp_path / "out/report.html").read_text()
    section = " ".join(Page(text[text.index('<section id="storyboards">') : text.index('id="compared"')]).text)
    words = " ".join(section.split())
    known = {(row.metric_id, row.model_id, row.prompt_id): row for row in read_scores(tmp_path / "scores")}
    for name in boards:
        first, second = (known["frame_likeness", side, name].value for side in ("base", "candidate"))
        shown = f"Frame likeness {first:.3f} {second:.3f} {second - first:+.3f}"
        assert shown.replace("-", "\N{MINUS SIGN}") in words
    value = f"{known['frame_identity', 'candidate', 'c'].value:.3f}".replace("-", "\N{MINUS SIGN}")
    assert f"Frame identity 1 of 4 frames show a face; two are the least {value}" in words
    whole = " ".join(" ".join(Page(text).text).split())
    assert "frame_identity: 1 of the base" in whole
    assert "Frame likeness exploratory, higher is better" in whole
    assert "Frame identity changed by" in whole and "on 1 storyboard: too few to say more." in whole
    assert "2 storyboards, 1 seed each" in whole
    summary = (tmp_path / "out/summary.md").read_text()
    assert "bootstrap intervals over 2 storyboards" in summary
