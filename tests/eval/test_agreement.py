"""Scorer against scorer: correlations, opposition, and teachers who judge their own pupils."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from eval import agreement, overfitting_words
from eval.agreement import Disagreement, spearman, teachers
from eval.compare import compared
from eval.config import EvaluationConfig
from eval.overfitting import look_for_overfitting
from eval.pairing import paired_scores
from eval.result import Comparison, MetricFacts
from eval.score import describe
from eval.scored import Scored
from eval.table import Row
from eval.teachers import warnings
from tests.eval.test_gates import NOISE

LEARNED = ("somebody/pickapic_v2",)


@pytest.mark.parametrize("seed", range(4))
def test_spearman_is_scipy_s(seed: int) -> None:
    one, other = np.random.default_rng(seed).integers(0, 6, size=(2, 15)).astype(float)
    found = spearman(one, other)
    assert found == pytest.approx(stats.spearmanr(one, other).statistic)
    assert [spearman(other, one), spearman(np.exp(one), other)] == pytest.approx([found, found])
    assert spearman(one, -one) == pytest.approx(-1)


def test_what_does_not_vary_has_no_correlation() -> None:
    varying = np.arange(5.0)
    assert spearman(varying, np.full(5, 0.1 + 0.2)) is None and spearman(np.zeros(5), varying) is None
    assert spearman(varying[:2], varying[:2]) is None


def found_by(candidates: dict[str, Any]) -> tuple[Comparison, Scored]:
    """What each metric says of 60 prompts; an improvement of all by so much, with some noise."""
    metrics = [{"metric": name, "model": "m"} for name in candidates]
    metrics = [m if m["metric"] != "blank" else {"metric": "blank"} for m in metrics]
    evaluation = EvaluationConfig.model_validate({"prompts": "p", "metrics": metrics, "resamples": 999})
    rows = [
        Row(f"{side}{place}", f"p{place}", place, 0, side, name, float(value))
        for name, shift in candidates.items()
        for side, found in (("base", np.zeros(60)), ("candidate", shift + (NOISE if name != "blank" else 0 * NOISE)))
        for place, value in enumerate(found)
    ]
    facts = {m.id: MetricFacts.model_validate({**describe(m), "weights": {}}) for m in evaluation.metrics}
    pictures = {side: {(f"p{n}", 0): f"{side}{n}" for n in range(60)} for side in ("base", "candidate")}
    scored = Scored(rows, facts, {}, {}, {}, pictures, {})
    return compared(evaluation, scored), scored


@pytest.mark.parametrize(
    ("shifts", "suspicious", "words"),
    [
        ({"pick_score": 1, "clip_score": 0, "clip_t": 0}, True, "taught otherwise none did (CLIP score and CLIP-T)."),
        ({"pick_score": 1, "clip_score": -1, "clip_t": 0}, True, "CLIP score fell, and no judge that was taught"),
        ({"pick_score": 1, "clip_score": 1, "clip_t": -1}, False, ""),
        ({"pick_score": 0, "clip_score": -1}, False, ""),
        ({"pick_score": -1, "clip_score": 0}, False, ""),
        ({"pick_score": 1}, False, ""),
        ({"pick_score": 1, "blank": 0}, False, ""),
    ],
)
def test_teachers_who_alone_find_it_better_are_suspicious(shifts: Any, suspicious: bool, words: str) -> None:
    found, scored = found_by(shifts)
    taught = teachers(found.judged, LEARNED)
    assert taught.is_suspicious == suspicious
    assert not teachers(found.judged, ()).is_suspicious, "nothing is known of what the candidate learned from"
    paired = {name: paired_scores(scored.rows, name, {}) for name in shifts}
    warned = warnings(found.judged, LEARNED)
    overfit = look_for_overfitting(found, scored.rows, paired, LEARNED, warned)
    assert overfit.warnings == tuple(warned) and len(warned) == 1
    assert [words in sentence for sentence in overfit.findings] == [True] * suspicious


def test_judges_are_opposed_when_both_intervals_say_so() -> None:
    found, _ = found_by({"pick_score": 1, "clip_score": -1, "clip_t": 0, "clip_i": -1})
    opposed = agreement.disagreements(found.judged)
    assert opposed == [Disagreement("pick_score", "clip_score"), Disagreement("pick_score", "clip_i")]
    words = overfitting_words.opposed(opposed, teachers(found.judged, LEARNED), found.titles)
    assert "better by PickScore, and worse by CLIP score and CLIP-I. PickScore learned from what" in words
    lower, _ = found_by({"pick_score": 1, "blank": 1})
    assert agreement.disagreements(lower.judged) == [Disagreement("pick_score", "blank")], "lower is better"
    assert "No two judges" in overfitting_words.opposed([], teachers(lower.judged, ()), lower.titles)


def test_improvements_are_correlated_and_not_values() -> None:
    """What a metric in which lower is better finds better is higher for it."""
    found, scored = found_by({"clip_score": 1, "blank": 0})
    noise = [-float(NOISE[place % 60]) for place in range(len(scored.rows))]
    rows = [
        replace(row, value=value) if (row.metric_id, row.model_id) == ("blank", "candidate") else row
        for row, value in zip(scored.rows, noise, strict=True)
    ]
    paired = {name: paired_scores(rows, name, {}) for name in ("clip_score", "blank")}
    (only,) = agreement.correlations(found.judged, paired)
    assert only.prompts == 60 and only.rho == pytest.approx(1)


def test_prompts_that_one_metric_did_not_score_are_left_out() -> None:
    found, scored = found_by({"clip_score": 0, "clip_t": 0})
    rows = [row for row in scored.rows if row.metric_id == "clip_score" or int(row.prompt_id[1:]) < 20]
    paired = {name: paired_scores(rows, name, {}) for name in ("clip_score", "clip_t")}
    (only,) = agreement.correlations(found.judged, paired)
    assert only.prompts == 20 and only.rho == pytest.approx(1)
