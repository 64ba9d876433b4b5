"""The inference, against hand tables, exact enumeration and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from eval import stats
from eval.pairing import group_means


def test_sign_flip_p_equals_exact_enumeration() -> None:
    d_P = np.random.default_rng(3).normal(0.4, 1, 8)
    means = [np.mean(np.array(signs) * d_P) for signs in itertools.product((1, -1), repeat=8)]
    exact = np.mean(np.abs(means) >= abs(d_P.mean()) - 1e-12)
    assert stats.sign_flip_p(d_P, 9999, [0]) == pytest.approx(exact, abs=0)


def test_random_sign_flips_approach_the_exact_p() -> None:
    d_P = np.random.default_rng(5).normal(0.3, 1, 12)
    exact, drawn = stats.sign_flip_p(d_P, 4096, [0]), stats.sign_flip_p(d_P, 4095, [1])
    assert exact is not None and drawn is not None
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact / 4095))


def test_p_is_never_zero_and_one_when_nothing_differs() -> None:
    assert stats.sign_flip_p(np.full(40, 1.0), 999, [0]) == 1 / 1000
    assert stats.sign_flip_p(np.zeros(40), 999, [0]) == 1.0
    assert stats.sign_flip_p(np.full(5, 0.1), 999, [0]) == 2 / 32


def test_skewness_correction_by_hand_and_at_its_limits() -> None:
    d_P = np.array([0.1, 0.2, 0.2, 0.3, 0.4, 0.9, 1.6, 0.2])
    t = d_P.mean() / d_P.std(ddof=1)
    third = ((d_P - d_P.mean()) ** 3).mean() / d_P.std() ** 3
    corrected = t + third * t**2 / 3 + third**2 * t**3 / 27 + third / 48
    assert stats.skew_corrected_p(d_P) == pytest.approx(2 * scipy_stats.t.sf(corrected * np.sqrt(8), 7))
    symmetric = np.array([-1.0, 0.0, 1.0, 2.0, 3.0, 0.5, 1.5])
    assert stats.skew_corrected_p(symmetric) == pytest.approx(scipy_stats.ttest_1samp(symmetric, 0).pvalue)
    assert stats.skew_corrected_p(np.full(9, 0.3)) is None and stats.skew_corrected_p(np.array([1.0])) is None
    assert stats.difference_p(np.full(5, 0.1), 999, [0]) == 2 / 32, "sign flips alone"
    assert stats.difference_p(np.array([1.0]), 999, [0]) is None


def test_a_large_skewed_gain_stays_found() -> None:
    """The cubic alone would take it for hardly more than nothing: it is made for means near zero."""
    d_P = 2 - np.array([0.1, 0.2, 0.2, 0.3, 0.4, 0.9, 1.6, 0.2, 0.3, 0.1, 0.2, 0.5, 2.2])
    p = stats.skew_corrected_p(d_P)
    assert p is not None and p < 1e-4
    assert stats.difference_p(d_P, 9999, [0]) == stats.sign_flip_p(d_P, 9999, [0])


def test_skewed_differences_are_not_found_too_often() -> None:
    """At the level of one of three metrics, where the short tail would tell sign flips and t of a difference."""
    rng, false, flipped = np.random.default_rng(0), 0, 0
    for trial in range(1000):
        d_P = rng.exponential(1, 50) - 1
        false += (stats.difference_p(d_P, 999, [trial]) or 1) <= 0.05 / 3
        flipped += (stats.sign_flip_p(d_P, 999, [trial]) or 1) <= 0.05 / 3
    assert false <= 0.05 / 3 * 1000 + 8 < flipped  # two standard errors are 8


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_an_interval_is_the_wider_of_two_on_each_side(draw: str) -> None:
    d_P = getattr(np.random.default_rng(3), draw)(size=24)
    found = stats.mean_interval(d_P, 0.95, 9999, [0])
    t = scipy_stats.ttest_1samp(d_P, 0).confidence_interval(0.95)
    bca = scipy_stats.bootstrap((d_P,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng([0]))
    assert found is not None
    assert found.low == pytest.approx(min(t.low, bca.confidence_interval.low))
    assert found.high == pytest.approx(max(t.high, bca.confidence_interval.high))


def test_rates_by_hand() -> None:
    """Of 100 pairs 12 got better and 4 worse, to which half a pair each is added, and as much to both cells of ties."""
    d_P = np.array([1.0] * 12 + [-1.0] * 4 + [0.0] * 84)
    found, deviation = stats.rate_difference_interval(d_P, 0.95), np.sqrt(12.5 + 4.5 - 64 / 102) / 102
    assert found is not None
    assert (found.low, found.high) == pytest.approx((8 / 102 - 1.959964 * deviation, 8 / 102 + 1.959964 * deviation))
    none = stats.rate_difference_interval(np.zeros(50), 0.95)
    assert none is not None and none.low < 0 < none.high
    assert stats.rate_difference_interval(np.zeros(1), 0.95) is None


def test_interval_degenerates_as_documented() -> None:
    assert stats.mean_interval(np.array([1.0]), 0.95, 999, [0]) is None
    assert stats.sign_flip_p(np.array([1.0]), 999, [0]) is None
    assert stats.mean_interval(np.zeros(9), 0.95, 999, [0]) == stats.Interval(0.0, 0.0, "point")
    assert stats.mean_interval(np.full(9, 0.3), 0.95, 999, [0]) == stats.Interval(*[pytest.approx(0.3)] * 2, "point")
    assert stats.spread(np.full(9, 0.3)) is None


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        interval = stats.mean_interval(rng.exponential(1.0, 60), 0.95, 999, [trial])
        assert interval is not None and interval.method == "BCa"
        covered += interval.low <= 1.0 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99  # binomial noise is 0.015


def test_prompts_not_pictures_are_the_unit() -> None:
    """Without a true effect, 5 % of comparisons may be significant although replicates of a prompt move together."""
    rng, false, pooled = np.random.default_rng(1), 0, 0
    for trial in range(200):
        delta = (rng.normal(0, 1, (20, 1)) + rng.normal(0, 0.5, (20, 4))).ravel()
        prompts = np.repeat(np.arange(20), 4).tolist()
        false += stats.sign_flip_p(group_means(prompts, delta), 999, [trial]) <= 0.05
        pooled += stats.sign_flip_p(delta, 999, [trial]) <= 0.05
    assert false / 200 <= 0.1
    assert pooled / 200 > 0.2  # what this design prevents


def test_resampling_repeats_itself() -> None:
    d_P = np.random.default_rng(2).exponential(0.1, 30)  # skewed, so that the bootstrap's bound is the wider one
    assert stats.mean_interval(d_P, 0.95, 999, [7, 1]) == stats.mean_interval(d_P, 0.95, 999, [7, 1])
    assert stats.mean_interval(d_P, 0.95, 999, [7, 1]) != stats.mean_interval(d_P, 0.95, 999, [7, 2])
    assert stats.sign_flip_p(d_P, 999, [7, 1]) == stats.sign_flip_p(d_P, 999, [7, 1])


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # x4, x3, x2, x1 in order, never decreasing
        ([0.2], [0.2]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert stats.holm(p_values) == pytest.approx(adjusted)


def test_wilson_by_hand() -> None:
    interval = stats.share_interval(np.array([1.0] * 61 + [0.0] * 39), 0.95)
    assert interval is not None
    assert (round(interval.low, 3), round(interval.high, 3)) == (0.512, 0.700)
    clean_sweep = stats.share_interval(np.ones(10), 0.95)
    assert clean_sweep is not None and (clean_sweep.low, clean_sweep.high) == pytest.approx((0.722, 1.0), abs=1e-3)


def test_ties_are_half_a_win() -> None:
    share = stats.win_share(np.array([0.5, -0.5, 1e-6, -1e-6, 0.0]), tie=1e-5)
    assert share.tolist() == [1.0, 0.0, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("prompts", "alpha", "d_z"), [(25, 0.05, 0.58), (100, 0.05, 0.28), (500, 0.05, 0.126), (100, 0.05 / 6, 0.35)]
)
def test_detectable_effect_against_published_power_tables(prompts: int, alpha: float, d_z: float) -> None:
    assert stats.minimum_detectable_effect(prompts, alpha) == pytest.approx(d_z, abs=0.006)


def test_detectable_effect_is_found_four_times_in_five() -> None:
    d_z = stats.minimum_detectable_effect(30, 0.05)
    draws = np.random.default_rng(0).normal(d_z, 1, (4000, 30))
    t = draws.mean(1) / (draws.std(1, ddof=1) / np.sqrt(30))
    assert np.mean(np.abs(t) > 2.0452) == pytest.approx(0.8, abs=0.025)
