"""Confidence sequences: their formula, their promise under peeking, and when an evaluation stops by them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmarks.verdicts import BETTER, Truth, simulate
from eval import sequential
from eval.config import EvaluationConfig
from eval.gate_words import stop_sentence
from eval.inference import inference_of
from eval.stats import Interval
from eval.summary import summary_markdown

RHO2 = sequential.tuned_rho2(0.95, 100)
LOOKS = range(50, 501, 25)


def test_the_interval_is_the_theorem_s() -> None:
    """Written down again from the paper, prompt by prompt."""
    x = np.random.default_rng(0).normal(0.3, 2, 80)
    t, rho = 80, math.sqrt((-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 100)
    radius = x.std() * math.sqrt(2 * (t * rho**2 + 1) / (t**2 * rho**2) * math.log(math.sqrt(t * rho**2 + 1) / 0.05))
    found = sequential.running_interval(x, 0.95, RHO2)
    assert found is not None and found.method == "confidence sequence"
    assert (found.low, found.high) == pytest.approx((x.mean() - radius, x.mean() + radius))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_p_is_where_the_interval_begins_to_leave_zero_out(confidence: float) -> None:
    for seed in range(30):
        x = np.random.default_rng(seed).normal(0.35, 1, 60)
        interval, p = sequential.running_interval(x, confidence, RHO2), sequential.running_p(x, RHO2)
        assert interval is not None and p is not None
        assert (interval.low > 0 or interval.high < 0) == (p < 1 - confidence)


def test_degenerate_values_give_words_or_bounds_and_no_nan() -> None:
    assert sequential.running_interval(np.array([1.0]), 0.95, RHO2) is None
    assert sequential.running_p(np.array([1.0]), RHO2) is None
    assert sequential.running_interval(np.zeros(30), 0.95, RHO2) == Interval(0, 0, "confidence sequence")
    assert sequential.running_p(np.zeros(30), RHO2) == 1
    assert sequential.running_p(np.ones(5), RHO2) == 1 / 16, "as a sign test; equal values prove no more than that"
    assert sequential.running_p(np.full(2000, 9.0), RHO2) == pytest.approx(math.exp(-700))
    settings = {"prompts": "p", "stop": "sequential", "metrics": [{"metric": "blank", "primary": True}]}
    rates = inference_of(EvaluationConfig.model_validate(settings)).mean(np.zeros(50), 0.95, [0], binary=True)
    assert rates is not None and rates.low < -0.02 and rates.high > 0.02


@pytest.mark.ci
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_looking_again_and_again_finds_nothing_where_nothing_is(shape: str) -> None:
    """As ordinary tests do: that is what this is for. 400 runs, 19 looks each."""
    rng, false, naive = np.random.default_rng(1), 0, 0
    for _ in range(400):
        x = rng.normal(0, 1, 500) if shape == "normal" else rng.exponential(1, 500) - 1
        false += any((sequential.running_p(x[:n], RHO2) or 0) <= 0.05 for n in LOOKS)
        naive += any(scipy_stats.ttest_1samp(x[:n], 0).pvalue <= 0.05 for n in LOOKS)
    assert false / 400 <= 0.06  # expected 0.02 and 0.04; binomial noise is 0.01
    assert naive / 400 > 0.15


def test_detectable_is_found_four_times_in_five() -> None:
    d_z = sequential.detectable(100, 0.05, RHO2)
    assert d_z is not None
    rng = np.random.default_rng(0)
    found = [(sequential.running_p(rng.normal(d_z, 1, 100), RHO2) or 1) <= 0.05 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_an_evaluation_stops_when_all_is_decided_and_says_so() -> None:
    [found] = simulate(Truth(500, (0.8,), stop="sequential", gates=BETTER), seed=1)
    assert (found.outcome, found.verdict, found.decided) == ("better", "promote", True)
    assert [look.prompts for look in found.looks] == list(range(50, found.prompts + 1, 25))
    assert found.prompts < 200 and found.judged[0].delta_interval is not None
    assert found.judged[0].delta_interval.method == "confidence sequence"
    assert stop_sentence(found).startswith(f"After {found.prompts} prompts and ")
    assert "no more were drawn" in stop_sentence(found)
    assert "confidence sequences" in summary_markdown("t", found)


def test_an_evaluation_that_decides_nothing_draws_everything() -> None:
    [found] = simulate(Truth(150, (0.0,), stop="sequential", gates=BETTER), seed=3)
    assert (found.outcome, found.verdict, found.decided) == ("no_difference", "inconclusive", False)
    assert [look.prompts for look in found.looks] == [50, 75, 100, 125, 150]
    assert "the prompts are used up" in stop_sentence(found)


@pytest.mark.parametrize(("indifferent", "decided"), [({}, False), ({"m0": 0.001}, False), ({"m0": 2.0}, True)])
def test_a_difference_too_small_to_matter_settles_a_metric(indifferent: Any, decided: bool) -> None:
    truth = Truth(150, (0.0,), stop="sequential", sequential={"indifferent": indifferent})
    [found] = simulate(truth, seed=3)
    assert (found.decided, found.outcome) == (decided, "no_difference")
    assert found.prompts == (50 if decided else 150)


def test_an_open_gate_keeps_it_going() -> None:
    """The primary is decided at once; that it is better by twice as much never is."""
    gate = {"metric": "m0", "require": "better", "margin": 0.8}
    [found] = simulate(Truth(100, (0.8,), stop="sequential", gates=(gate,)), seed=1)
    assert (found.prompts, found.verdict, found.outcome) == (100, "inconclusive", "better")


def test_a_look_s_intervals_hold_for_all_primaries_together() -> None:
    [found] = simulate(Truth(50, (0.0, 0.0), stop="sequential"), seed=0)
    for metric in found.judged:
        alone, together = metric.delta_interval, found.looks[0].intervals[metric.facts.name]
        assert alone is not None and together is not None
        assert together.low < alone.low < alone.high < together.high
