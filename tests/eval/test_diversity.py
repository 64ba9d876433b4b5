"""Diversity within a prompt, and what it shares with LPIPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.compare import compare
from eval.config import EvaluationConfig
from eval.result import read_comparison
from eval.scorers.diversity import Diversity
from eval.scorers.lpips import Lpips
from eval.table import read_scores


@pytest.fixture
def settings(squeeze_trunk: Path) -> dict[str, Any]:
    return {"trunk": str(squeeze_trunk), "net": "squeeze", "linear": False}


def test_the_same_picture_from_all_noise_has_none(settings: Any, toys: Any, score: Any, tmp_path: Path) -> None:
    same = toys.image_set(tmp_path / "same", lambda prompt, _: toys.paint(1)(prompt, 0), ["one", "two"], replicates=3)
    rows = read_scores(score(Diversity(metric="diversity", **settings), tmp_path / "out", base=same))
    assert [row.value for row in rows] == [0.0, 0.0]


def test_a_missing_picture_leaves_its_prompt_without_a_score(
    settings: Any, toys: Any, score: Any, tmp_path: Path
) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), ["one", "two"], replicates=3)
    (base / "images/p1-2.png").unlink()
    rows = read_scores(score(Diversity(metric="diversity", **settings), tmp_path / "out", base=base))
    assert [row.reason for row in rows] == ["", "picture file missing"]


def test_a_pair_that_lpips_knows_is_not_asked_again(settings: Any, toys: Any, score: Any, tmp_path: Path) -> None:
    def side(which: int) -> Any:
        return lambda prompt, replicate: toys.paint(7)(prompt, which or replicate)

    base, candidate = (toys.image_set(tmp_path / str(which), side(which), ["one"]) for which in (0, 1))
    together = toys.image_set(tmp_path / "together", side(0), ["one"], replicates=2)
    cells: dict[str, bytes] = {}
    (pair,) = read_scores(
        score(Lpips(metric="lpips", **settings), tmp_path / "a", base=base, candidate=candidate, cells=cells)
    )
    known = dict(cells)
    (prompt,) = read_scores(
        score(Diversity(metric="diversity", **settings), tmp_path / "b", base=together, cells=cells)
    )
    assert prompt.value == pair.value > 0
    assert cells == known


def test_one_replicate_is_said_once(settings: Any, toys: Any, score_all: Any, tmp_path: Path) -> None:
    asked = EvaluationConfig.model_validate({"prompts": "p", "metrics": [{"metric": "diversity", **settings}]})
    base, candidate = (toys.image_set(tmp_path / f"{seed}", toys.paint(seed)) for seed in (1, 2))
    references = toys.dataset(tmp_path / "r", [toys.paint(3)(0, 0)])
    compare(evaluation=asked, scores=score_all(asked, base, candidate, references, tmp_path), out=tmp_path)
    found = read_comparison(tmp_path)
    assert [metric.reason for metric in found.not_run] == [
        "no prompt is scored on both sides (only one picture of the prompt; set evaluation.replicates to 2 at least)"
    ]
    assert found.health.unscored == ()
