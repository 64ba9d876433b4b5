"""Gates: what passes, what fails, what stays open, and what a configuration may ask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats as scipy_stats

from eval.compare import compared
from eval.config import EvaluationConfig
from eval.gate_words import gate_words, verdict_sentence
from eval.result import Comparison, MetricFacts
from eval.score import describe
from eval.scored import Scored
from eval.summary import summary_markdown
from eval.table import Row

Values = Any
NOISE = np.random.default_rng(0).normal(0, 1, 60)
NOISE -= NOISE.mean()


def judge(
    gates: list[dict[str, Any]], metric: dict[str, Any], base: Values, candidate: Values, not_run: str = ""
) -> Comparison:
    """One metric called `m` on as many prompts as there are values."""
    settings = {"prompts": "p", "metrics": [{**metric, "name": "m"}], "gates": gates, "resamples": 999}
    evaluation = EvaluationConfig.model_validate(settings)
    scored = evaluation.metrics[0].scored
    sides = {"pair": candidate} if scored == "pair" else {"base": base, "candidate": candidate}
    rows = [
        Row(f"{side}{place}", f"p{place}", place, 0, side, "m", float(value))
        for side, values in sides.items()
        for place, value in enumerate([] if not_run else values)
    ]
    facts = MetricFacts.model_validate({**describe(evaluation.metrics[0]), "weights": {}})
    pictures = {
        side: {(f"p{place}", 0): f"{side}{place}" for place in range(len(base))} for side in ("base", "candidate")
    }
    return compared(evaluation, Scored(rows, {"m": facts}, {}, {}, {"m": not_run} if not_run else {}, pictures, {}))


def judge_many(candidates: dict[str, Values], base: Values) -> Comparison:
    """Several CLIP scores, of which the one called `first` is primary."""
    metrics = [{"metric": "clip_score", "model": "m", "name": name, "primary": name == "first"} for name in candidates]
    evaluation = EvaluationConfig.model_validate({"prompts": "p", "metrics": metrics, "resamples": 999})
    rows = [
        Row(f"{side}{place}", f"p{place}", place, 0, side, name, float(value))
        for name, candidate in candidates.items()
        for side, values in (("base", base), ("candidate", candidate))
        for place, value in enumerate(values)
    ]
    facts = {
        metric.id: MetricFacts.model_validate({**describe(metric), "weights": {}}) for metric in evaluation.metrics
    }
    pictures = {side: {(f"p{n}", 0): f"{side}{n}" for n in range(len(base))} for side in ("base", "candidate")}
    return compared(evaluation, Scored(rows, facts, {}, {}, {}, pictures, {}))


CLIP = {"metric": "clip_score", "model": "m"}
BLANK = {"metric": "blank"}
BETTER = [{"metric": "m", "require": "better"}]


@pytest.mark.parametrize(
    ("shift", "gate", "outcome"),
    [
        (1.0, {"require": "better"}, "passed"),
        (1.0, {"require": "better", "margin": 0.5}, "passed"),
        (1.0, {"require": "better", "margin": 0.95}, "undecided"),
        (1.0, {"require": "better", "margin": 2.0}, "failed"),
        (0.0, {"require": "better"}, "undecided"),
        (-1.0, {"require": "better"}, "failed"),
        (0.0, {"require": "not_worse", "margin": 0.5}, "passed"),
        (-0.4, {"require": "not_worse", "margin": 0.5}, "undecided"),
        (-1.0, {"require": "not_worse", "margin": 0.5}, "failed"),
        (0.0, {"require": "at_least", "limit": 19.0}, "passed"),
        (0.0, {"require": "at_least", "limit": 20.1}, "undecided"),
        (0.0, {"require": "at_least", "limit": 21.0}, "failed"),
        (0.0, {"require": "at_most", "limit": 21.0}, "passed"),
        (0.0, {"require": "at_most", "limit": 19.0}, "failed"),
    ],
)
def test_a_gate_is_decided_by_which_side_the_interval_is_on(shift: float, gate: Any, outcome: str) -> None:
    base = np.full(60, 20.0) if "limit" in gate else 20 + 3 * np.roll(NOISE, 7)
    found = judge([{"metric": "m", **gate}], CLIP, base, base + shift + NOISE)
    (result,) = found.gates
    assert result.outcome == outcome
    assert found.verdict == {"passed": "promote", "failed": "reject", "undecided": "inconclusive"}[outcome]
    assert result.observed == pytest.approx(20 + shift if "limit" in gate else shift)


def test_lower_is_better_turns_a_gate_round() -> None:
    base = np.array([0.0, 1.0] * 30)
    found = judge(BETTER, BLANK, base, np.zeros(60))
    assert found.gates[0].observed == pytest.approx(0.5) and found.verdict == "promote"
    assert judge(BETTER, BLANK, np.zeros(60), base).verdict == "reject"


def test_rates_without_a_difference_are_not_equal_for_certain() -> None:
    """Of 60 prompts none got worse: up to about 5 % may, so a margin of 2 % is not shown, one of 10 % is."""
    for margin, outcome in ((0.02, "undecided"), (0.1, "passed")):
        gates = [{"metric": "m", "require": "not_worse", "margin": margin}]
        assert judge(gates, BLANK, np.zeros(60), np.zeros(60)).gates[0].outcome == outcome
    for limit, outcome in ((0.02, "undecided"), (0.1, "passed")):
        gates = [{"metric": "m", "require": "at_most", "limit": limit}]
        assert judge(gates, BLANK, np.zeros(60), np.zeros(60)).gates[0].outcome == outcome


def test_equal_models_are_not_worse_and_not_better() -> None:
    same = 20 + NOISE
    assert judge([{"metric": "m", "require": "not_worse", "margin": 0.1}], CLIP, same, same).verdict == "promote"
    found = judge(BETTER, CLIP, same, same)
    assert (found.verdict, found.gates[0].interval.low, found.gates[0].p) == ("inconclusive", 0, 1)  # type: ignore[union-attr]


def test_all_have_to_pass_and_one_failure_rejects() -> None:
    better, guard = BETTER[0], {"metric": "m", "require": "at_most", "limit": 30.0}
    base = 20 + np.roll(NOISE, 3)
    assert judge([better, guard], CLIP, base, base + 1 + NOISE).verdict == "promote"
    assert judge([better, {**guard, "limit": 10.0}], CLIP, base, base + 1 + NOISE).verdict == "reject"
    assert judge([better, {**guard, "limit": 10.0}], CLIP, base, base + NOISE).verdict == "reject"
    assert judge([better, guard], CLIP, base, base + NOISE).verdict == "inconclusive"
    assert judge([], CLIP, base, base + 1).verdict is None


def test_one_prompt_and_a_metric_that_was_not_run_decide_nothing() -> None:
    alone = judge(BETTER, CLIP, [20.0], [29.0])
    assert (alone.verdict, alone.gates[0].reason) == ("inconclusive", "too few prompts")
    assert judge(BETTER, CLIP, [20.0] * 4, [29.0] * 4).verdict == "inconclusive", "four signs alike are a chance of 1/8"
    missing = judge(BETTER, CLIP, [20.0], [29.0], not_run="needs insightface")
    assert (missing.verdict, missing.gates[0].observed) == ("inconclusive", None)
    assert missing.gates[0].reason == "not run: needs insightface"
    assert "not run: needs insightface" in summary_markdown("t", missing)


def test_drift_has_limits() -> None:
    gates = [{"metric": "m", "require": "at_least", "limit": 0.3}]
    assert judge(gates, {"metric": "ssim"}, [0.0] * 60, 0.5 + 0.1 * NOISE).verdict == "promote"
    assert judge(gates, {"metric": "ssim"}, [0.0] * 60, 0.1 + 0.1 * NOISE).verdict == "reject"


def test_a_gate_s_interval_has_the_gate_s_confidence() -> None:
    """Recomputed without this project's statistics."""
    base = 20 + np.roll(NOISE, 3)
    found = judge([{**BETTER[0], "confidence": 0.8}], CLIP, base, base + 0.2 + NOISE).gates[0]
    values = 0.2 + NOISE
    bca = scipy_stats.bootstrap((values,), np.mean, method="BCa", confidence_level=0.8, n_resamples=9999, rng=1)
    t = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.8)
    assert found.interval is not None and found.confidence == 0.8
    assert found.interval.low == pytest.approx(min(bca.confidence_interval.low, t.low), abs=0.02)
    assert found.interval.high == pytest.approx(max(bca.confidence_interval.high, t.high), abs=0.02)


def test_words() -> None:
    base = 20 + np.roll(NOISE, 3)
    gates = [
        {"metric": "m", "require": "better"},
        {"metric": "m", "require": "not_worse", "margin": 0.3},
        {"metric": "m", "require": "at_most", "limit": 25},
    ]
    found = judge(gates, CLIP, base, base + 1 + NOISE)
    title = found.judged[0].facts.title
    assert [gate_words(gate) for gate in found.gates] == [
        f"{title} better than the base",
        f"{title} not worse than the base by 0.30",
        f"{title} at most 25.00",
    ]
    assert verdict_sentence(found) == "Promote: the candidate passes all 3 gates."
    found = judge([*gates[:2], {**gates[2], "limit": 15}, {**gates[2], "limit": 16}], CLIP, base, base + 1 + NOISE)
    assert verdict_sentence(found) == f"Reject: the candidate fails {title} at most 15.00 and {title} at most 16.00."
    assert "| passed |" in summary_markdown("t", found) and "| failed |" in summary_markdown("t", found)


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"metric": "n", "require": "better"}, "no metric is called 'n'; there are m, drift, kid"),
        ({"metric": "m", "require": "better", "limit": 1}, "expected `margin`, got `limit`"),
        ({"metric": "m", "require": "not_worse"}, "needs a `margin` above 0"),
        ({"metric": "m", "require": "at_most"}, "needs `limit`"),
        ({"metric": "m", "require": "at_most", "limit": 1, "margin": 1}, "has no margin: move `limit`"),
        ({"metric": "drift", "require": "better"}, "require at_most or at_least"),
        ({"metric": "kid", "require": "better"}, "no interval to decide by"),
        ({"metric": "m", "require": "best"}, "'better', 'not_worse', 'at_most' or 'at_least'"),
        ({"metric": "m", "require": "better", "margin": -1}, "greater than or equal to 0"),
    ],
)
def test_gates_that_make_no_sense_are_refused(gate: Any, said: str) -> None:
    metrics = [{**CLIP, "name": "m"}, {"metric": "ssim", "name": "drift"}, {"metric": "kid", "model": "m"}]
    with pytest.raises(ValidationError, match=said):
        EvaluationConfig.model_validate({"prompts": "p", "metrics": metrics, "gates": [gate]})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stop": "fixed", "sequential": {"every_prompts": 5}}, "has no effect with stop: fixed"),
        (
            {"stop": "sequential", "sequential": {"indifferent": {"other": 1}}},
            "'other' is not a primary metric; there are m",
        ),
        ({"stop": "sequential", "sequential": {"first_prompts": 5}}, "greater than or equal to 10"),
    ],
)
def test_stops_that_make_no_sense_are_refused(settings: Any, said: str) -> None:
    metrics = [{**CLIP, "name": "m", "primary": True}, {"metric": "blank", "name": "other"}]
    with pytest.raises(ValidationError, match=said):
        EvaluationConfig.model_validate({"prompts": "p", "metrics": metrics, **settings})
