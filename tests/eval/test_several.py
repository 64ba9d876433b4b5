"""Several candidates at once: corrected together, one of them chosen, and what a configuration may ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from eval.compare import choose, compared, compared_together
from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.result import Comparison, MetricFacts
from eval.score import describe
from eval.scored import Scored
from eval.table import Row
from eval.verdicts import verdict_of_several

PROMPTS = 40
RNG = np.random.default_rng(3)
BASE = RNG.normal(20, 3, PROMPTS)
NOISE = RNG.normal(0, 1, (5, PROMPTS))
NOISE -= NOISE.mean(axis=1, keepdims=True)
GATE = {"metric": "one", "require": "better", "margin": 0.2}


def evaluation(**settings: Any) -> EvaluationConfig:
    """Two primary metrics, `one` and `two`; lower is better in `two`."""
    metrics = [
        {"metric": "clip_score", "model": "m", "name": "one", "primary": True},
        {"metric": "blank", "name": "two", "primary": True},
    ]
    return EvaluationConfig.model_validate({"prompts": "p", "resamples": 999, "metrics": metrics} | settings)


def scored(
    asked: EvaluationConfig, shifts: Sequence[float], noise: int, not_run: dict[str, str] | None = None
) -> Scored:
    """A candidate that differs from the base by the shifts, metric by metric."""
    rows = [
        Row(f"{side}{place}", f"p{place}", place, 0, side, metric.id, float(value))
        for metric, shift in zip(asked.metrics, shifts, strict=True)
        if metric.id not in (not_run or {})
        for side, values in (("base", BASE), ("candidate", BASE + shift + NOISE[noise]))
        for place, value in enumerate(values)
    ]
    facts = {
        metric.id: MetricFacts.model_validate({**describe(metric), "binary": False, "weights": {}})
        for metric in asked.metrics
    }
    pictures = {side: {(f"p{n}", 0): f"{side}{n}" for n in range(PROMPTS)} for side in ("base", "candidate")}
    return Scored(rows, facts, {}, {}, not_run or {}, pictures, {})


def together(asked: EvaluationConfig, candidates: dict[str, Scored]) -> dict[str, Comparison]:
    return compared_together(asked, candidates, dict.fromkeys(candidates, ()))


def test_holm_counts_the_tests_of_all_candidates() -> None:
    asked = evaluation()
    shifts = {"weak": (0.42, 0.0), "none": (0.0, 0.05), "strong": (1.0, 0.45)}
    found = together(asked, {name: scored(asked, shift, place) for place, (name, shift) in enumerate(shifts.items())})
    tests = [(metric.p, metric.p_holm) for one in found.values() for metric in one.judged]
    assert len(tests) == 6 and all(one.candidates == 3 for one in found.values())
    expected, running = {}, 0.0
    for rank, p in enumerate(sorted(p for p, _ in tests if p is not None)):
        running = max(running, min(1.0, (6 - rank) * p))
        expected[p] = running
    assert all(corrected == pytest.approx(expected[p]) for p, corrected in tests if p is not None)
    alone = {name: compared(asked, scored(asked, shift, place)) for place, (name, shift) in enumerate(shifts.items())}
    assert alone["weak"].outcome == "better" and found["weak"].outcome == "no_difference"
    assert found["strong"].outcome == "mixed"


def test_what_is_measured_does_not_depend_on_the_company() -> None:
    asked = evaluation()
    one = scored(asked, (0.5, 0.1), 0)
    alone, among = compared(asked, one), together(asked, {"a": one, "b": scored(asked, (0, 0), 1)})["a"]
    for mine, other in zip(alone.judged, among.judged, strict=True):
        assert (mine.delta, mine.delta_interval, mine.p, mine.win_rate) == (
            other.delta,
            other.delta_interval,
            other.p,
            other.win_rate,
        )
    assert together(asked, {"a": one})["a"] == alone


def test_each_candidate_has_its_share_of_a_gate_s_level() -> None:
    asked = evaluation(gates=[GATE])
    one = scored(asked, (0.62, 0.0), 0)
    alone = compared(asked, one)
    among = together(asked, {f"c{n}": scored(asked, (0.62, 0.0), 0) for n in range(20)})["c0"]
    assert alone.gates[0].confidence == 0.95 and among.gates[0].confidence == pytest.approx(1 - 0.05 / 20)
    assert alone.verdict == "promote" and among.verdict == "inconclusive"
    mine, other = alone.gates[0].interval, among.gates[0].interval
    assert mine and other and other.low < mine.low < mine.high < other.high


def test_a_sequence_of_looks_is_wide_enough_for_all_candidates() -> None:
    asked = evaluation(stop="sequential")
    one = scored(asked, (0.5, 0.1), 0)
    alone, among = compared(asked, one).looks[-1], together(asked, {"a": one, "b": scored(asked, (0, 0), 1)})["a"].looks
    narrow, wide = alone.intervals["one"], among[-1].intervals["one"]
    assert narrow and wide and wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("by", "shifts", "chosen"),
    [
        ("one", {"a": (0.1, 0), "b": (0.3, 0), "c": (0.2, 0)}, "b"),
        ("two", {"a": (0, 0.1), "b": (0, 0.3), "c": (0, -0.2)}, "c"),
        ("one", {"a": (0.25, 0), "b": (0.25, 0)}, "a"),
    ],
)
def test_the_largest_improvement_is_chosen(by: str, shifts: dict[str, tuple[float, float]], chosen: str) -> None:
    asked = evaluation()
    assert choose(by, together(asked, {name: scored(asked, mine, 0) for name, mine in shifts.items()})) == chosen


def test_nothing_is_chosen_by_a_metric_that_was_not_run() -> None:
    asked = evaluation()
    candidates = {"a": scored(asked, (0, 0), 0), "b": scored(asked, (0, 0), 1, not_run={"one": "no weights"})}
    with pytest.raises(EvalError, match=r"selection\.by: one cannot choose a candidate: no weights"):
        choose("one", together(asked, candidates))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["reject", "promote", "inconclusive"], "promote"),
        (["reject", "reject"], "reject"),
        (["reject", "inconclusive"], "inconclusive"),
        ([None, None], None),
    ],
)
def test_one_to_promote_is_enough(verdicts: list[Any], expected: str | None) -> None:
    assert verdict_of_several(verdicts) == expected


def test_axes_are_likeness_and_prompt_unless_others_are_named() -> None:
    metrics = [
        {"metric": "pick_score", "model": "m", "primary": True},
        {"metric": "clip_score", "model": "m"},
        {"metric": "nearest_instance", "model": "m"},
        {"metric": "clip_i", "model": "m"},
    ]
    assert evaluation(metrics=metrics).axes == ("clip_i", "clip_score")
    assert evaluation(metrics=metrics, trade_off=["clip_score", "pick_score"]).axes == ("clip_score", "pick_score")
    assert evaluation().axes is None


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"candidates": ["a", "b"], "candidate": "c"}, "expected one of them, got both"),
    ({"candidates": ["a", "a"]}, "'a' is there more than once"),
    ({"selection": {}}, "expected several candidates to choose from, got none"),
    (
        {"selection": {"by": "three"}, "candidates": ["a", "b"]},
        r"selection.by: expected a metric that judges \(one, two\)",
    ),
    ({"selection": {"share": 0.95}, "candidates": ["a", "b"]}, "less than or equal to 0.9"),
    ({"selection": {}, "candidates": ["a", "b"], "stop": "sequential"}, "goes with stop: fixed"),
    ({"trade_off": ["one", "one"]}, "got 'one' twice"),
    ({"trade_off": ["one", "ssim"]}, "got 'ssim'"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_does_not_fit_together_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        evaluation(**settings)


def test_a_selection_is_by_the_first_primary_unless_another_is_named() -> None:
    asked = evaluation(candidates=["a", "b"], selection={})
    assert asked.chosen_by == "one"
    assert evaluation(candidates=["a", "b"], selection={"by": "two"}).chosen_by == "two"
    assert EvaluationConfig.model_validate(asked.model_dump(mode="json")) == asked, (
        "settings survive the way to a stage"
    )
