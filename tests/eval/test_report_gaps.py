"""What a run could not measure stands in the report: its row, its reason, and how often."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.compare import compare
from eval.config import EvaluationConfig
from eval.report import build_report
from eval.scorers.aesthetics import Aesthetics
from eval.teachers import DATA, shared_data
from tests.eval.pages import Page
from tests.eval.toy_faces import write_pack

PROMPTS = ("one", "a drawing " * 30, "three", "four")
RED = np.full((32, 32, 3), (255, 0, 0), dtype=np.uint8)
"""In which the toy detector finds no face."""


@dataclass(frozen=True)
class Made:
    document: dict[str, Any]
    words: str


@pytest.fixture
def made(toys: Any, score: Any, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The base's second and third picture show no face, the candidate's last is broken."""
    pytest.importorskip("insightface", reason="needs the extra `faces`")
    monkeypatch.setattr(Aesthetics, "packages", {"no_such_module": "pip install no-such-module"})
    asked = [
        {"metric": "clip_score", "model": str(clip_folder), "primary": True},
        {"metric": "pick_score", "model": str(clip_folder)},
        {"metric": "face_similarity", "pack": str(write_pack(tmp_path / "pack"))},
        {"metric": "dino", "model": str(tmp_path / "nowhere")},
        {"metric": "aesthetics", "model": str(clip_folder), "head": str(clip_folder)},
    ]
    evaluation = EvaluationConfig.model_validate({"prompts": "p", "resamples": 999, "metrics": asked})
    paint = toys.paint(1)
    sets = {
        "base": toys.image_set(tmp_path / "base", lambda p, r: RED if p in (1, 2) else paint(p, r), PROMPTS),
        "candidate": toys.image_set(tmp_path / "candidate", toys.paint(2), PROMPTS),
        "references": toys.dataset(tmp_path / "references", [toys.paint(3)(0, 0)]),
    }
    (sets["candidate"] / "images/p3-0.png").write_bytes(b"not a picture")
    compare(
        evaluation=evaluation, scores=score(evaluation.metrics, tmp_path / "scores", **sets), out=tmp_path / "found"
    )
    nothing = {"training": None, "provenance": {}, "command": "", "config_yaml": ""}
    learned = {"learned_from": ["yuvalkirstain/pickapic_v2"]}
    build_report(title="gaps", comparison=tmp_path / "found", **sets, **nothing, **learned, out=tmp_path / "out")
    words = " ".join(" ".join(Page((tmp_path / "out/report.html").read_text()).text).split())
    return Made(json.loads((tmp_path / "out/report.json").read_text()), words)


def test_missing_weights_and_packages_have_a_row_and_their_reason(made: Made) -> None:
    reasons = {metric["name"]: metric["reason"] for metric in made.document["comparison"]["not_run"]}
    assert reasons == {
        "dino": "model: no such file or folder: nowhere",
        "aesthetics": "needs no_such_module, which is not installed: pip install no-such-module",
    }
    for reason in reasons.values():
        assert f"exploratory not run: {reason} Licence:" in made.words
    assert f"metrics not run DINO: {reasons['dino']}; " in made.words
    assert "Not run: DINO, Aesthetics" in " ".join(made.document["summary"])


def test_long_prompts_are_counted_and_named(made: Made) -> None:
    assert made.document["comparison"]["health"]["truncated_prompts"] == {"clip_score": ["p1"], "pick_score": ["p1"]}
    assert "clip_score: 1 of 4 judged on their beginning only" in made.words
    assert f"Prompts that clip_score saw only the beginning of {PROMPTS[1].strip()}" in made.words


def test_pictures_without_a_face_and_broken_ones_are_counted_by_reason(made: Made) -> None:
    broken = {"of": "candidate", "reason": "picture unreadable: UnidentifiedImageError", "count": 1}
    faceless = {"metric": "face_similarity", "of": "base", "reason": "no face found", "count": 2}
    judges = ("clip_score", "pick_score", "face_similarity")
    assert made.document["not_scored"] == [faceless, *({"metric": name, **broken} for name in judges)]
    assert "missing or not scored 5" in made.words
    assert "face_similarity base no face found 2" in made.words
    assert "clip_score candidate picture unreadable: UnidentifiedImageError 1" in made.words
    assert "p1 0 base face_similarity no face found" in made.words


def test_a_judge_that_learned_from_the_same_data_is_named(made: Made) -> None:
    (warning,) = (sentence for sentence in made.document["summary"] if "teacher" in sentence)
    assert warning.startswith("PickScore and the candidate both learned from Pick-a-Pic: it is judged by its own")
    assert warning in made.words
    assert "Pick-a-Pic v1, LAION-2B" in made.words  # beside its weights


@pytest.mark.parametrize(
    ("learned_from", "shared"),
    [
        (["yuvalkirstain/pickapic_v1_no_images"], ["Pick-a-Pic"]),
        (["Pick-A-Pic, the first thousand"], ["Pick-a-Pic"]),
        (["THUDM/ImageRewardDB", "ymhao/HPDv2"], ["HPD"]),
        (["laion/laion2B-en-aesthetic"], ["LAION"]),
        (["my-cat", "avatars"], []),
        ([], []),
    ],
)
def test_data_goes_by_its_names(learned_from: list[str], shared: list[str]) -> None:
    assert shared_data(("Pick-a-Pic v1", "HPD v2", "LAION-2B"), learned_from) == shared


def test_what_scorers_learned_from_is_in_the_table() -> None:
    """Or it is known to have no dataset that one could train on by that name."""
    from eval.scorers import OWN

    unnamed = {"OpenAI's WIT", "AVA"}
    taught = {text for metric in OWN.values() for text in metric.trained_on} - unnamed
    assert all(shared_data([text], [text]) for text in taught)
    assert all(shared_data([name], [name]) == [name] for name in DATA)
