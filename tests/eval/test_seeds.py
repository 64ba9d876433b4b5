"""What is said of settings over seeds: against a slow reference, and where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from eval.inference import FixedNumber
from eval.seeds import OverSeeds, howe_p, over_seeds, table_of
from eval.stats import FloatArray

RNG = np.random.default_rng(11)
FIXED = FixedNumber(999)


def of(d_SP: FloatArray, confidence: float = 0.95) -> OverSeeds:
    return over_seeds(d_SP, confidence, FIXED, [1], binary=False)


def mean_squares(d_SP: FloatArray) -> tuple[float, float, float]:
    """Of seeds, prompts and what is left, written out."""
    seeds, prompts = d_SP.shape
    cells = [(s, p) for s in range(seeds) for p in range(prompts)]
    total = sum(d_SP[s, p] for s, p in cells) / (seeds * prompts)
    of_s = [sum(d_SP[s, p] for p in range(prompts)) / prompts for s in range(seeds)]
    of_p = [sum(d_SP[s, p] for s in range(seeds)) / seeds for p in range(prompts)]
    rest = sum((d_SP[s, p] - of_s[s] - of_p[p] + total) ** 2 for s, p in cells)
    return (
        prompts * sum((mean - total) ** 2 for mean in of_s) / (seeds - 1),
        seeds * sum((mean - total) ** 2 for mean in of_p) / (prompts - 1),
        rest / ((seeds - 1) * (prompts - 1)),
    )


@pytest.mark.parametrize("training_sd", [0.0, 0.8])
def test_the_parts_are_those_of_a_two_way_analysis_of_variance(training_sd: float) -> None:
    d_SP = training_sd * RNG.normal(size=(4, 1)) + RNG.normal(size=(1, 30)) + RNG.normal(size=(4, 30))
    of_seeds, of_prompts, rest = mean_squares(d_SP)
    found = of(d_SP)
    assert found.mean == pytest.approx(float(np.mean([np.mean(row) for row in d_SP])))
    assert found.sd == pytest.approx(float(np.std([np.mean(row) for row in d_SP], ddof=1)))
    assert found.training_sd == pytest.approx(math.sqrt(max(0.0, of_seeds - rest) / 30))
    within = FIXED.mean(d_SP.mean(axis=0), 0.95, [1], binary=False)
    assert found.interval is not None and within is not None
    squared = stats.t.ppf(0.975, 3) ** 2 * max(0.0, of_seeds - rest) / (4 * 30)
    assert (found.mean - found.interval.low) ** 2 == pytest.approx((found.mean - within.low) ** 2 + squared)
    assert (found.interval.high - found.mean) ** 2 == pytest.approx((within.high - found.mean) ** 2 + squared)
    # the bootstrap only ever widens what t gives
    reach_of_prompts = stats.t.ppf(0.975, 29) ** 2 * of_prompts / (4 * 30)
    assert (found.interval.high - found.mean) ** 2 >= (squared + reach_of_prompts) * (1 - 1e-9)


def test_p_is_where_the_interval_touches_zero() -> None:
    parts = ((0.04, 3), (0.01, 49))
    p = howe_p(0.7, *parts)
    reach = math.sqrt(sum(stats.t.isf(p / 2, freedom) ** 2 * variance for variance, freedom in parts))
    assert reach == pytest.approx(0.7)
    assert howe_p(0.0, *parts) == 1 and howe_p(-0.7, *parts) == pytest.approx(p)
    assert howe_p(1e9, *parts) < 1e-9
    one = (0.04, 7)
    assert howe_p(0.5, one, (0.0, 3)) == pytest.approx(2 * stats.t.sf(0.5 / 0.2, 7)), "with one part it is Student's"


def test_few_seeds_say_nothing_of_others() -> None:
    d_SP = RNG.normal(1, 1, (3, 40))
    assert of(d_SP).interval is not None and of(d_SP).p is not None
    two, one = of(d_SP[:2]), of(d_SP[:1])
    assert two.sd is not None and two.interval is None and two.p is None
    assert (one.sd, one.training_sd, one.interval, one.p) == (None, None, None, None)
    assert over_seeds(d_SP, 0.95, None, [1], binary=False).interval is None


def test_few_prompts_say_nothing_either() -> None:
    assert of(RNG.normal(1, 1, (4, 3))).interval is None


def test_equal_trainings_have_the_interval_over_prompts() -> None:
    row_P = RNG.normal(0.5, 1, 40)
    same, alone = of(np.stack([row_P] * 4)), FIXED.mean(row_P, 0.95, [1], binary=False)
    assert alone is not None and same.interval is not None and same.training_sd == 0
    assert (same.interval.low, same.interval.high) == pytest.approx((alone.low, alone.high))


def test_prompts_that_one_training_lacks_are_left_out() -> None:
    rows = [{"a": 1.0, "b": 2.0, "c": 3.0}, {"c": 5.0, "a": 4.0}]
    assert table_of(rows).tolist() == [[1.0, 3.0], [4.0, 5.0]]
    assert table_of([{"a": 1.0}, {"b": 1.0}]).size == 0


@pytest.mark.ci
@pytest.mark.parametrize(
    ("seeds", "training_sd", "prompts"),
    [
        (3, 0.0, 50),
        (3, 0.3, 50),
        (3, 1.0, 50),
        pytest.param(3, 0.4, 200, marks=pytest.mark.slow),
        pytest.param(5, 0.4, 12, marks=pytest.mark.slow),
        pytest.param(5, 1.0, 50, marks=pytest.mark.slow),
        pytest.param(8, 0.2, 50, marks=pytest.mark.slow),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, training_sd: float, prompts: int) -> None:
    """Of 400 sweeps, within three standard errors of 95 %; they may hold it a little more often."""
    rng, held, found_something = np.random.default_rng([seeds, prompts]), 0, 0
    for _ in range(400):
        d_SP = (
            training_sd * rng.normal(size=(seeds, 1))
            + rng.normal(size=(1, prompts))
            + 0.7 * rng.normal(size=(seeds, prompts))
        )
        said = of(d_SP)
        assert said.interval is not None and said.p is not None
        held += said.interval.low <= 0 <= said.interval.high
        found_something += said.p <= 0.05
    assert 0.917 <= held / 400 <= 0.992
    assert found_something / 400 <= 0.083


def test_prompts_alone_would_find_what_is_the_seeds() -> None:
    """What this is for: three seeds of a training that varies as much as prompts do."""
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(200):
        d_SP = rng.normal(size=(3, 1)) + rng.normal(size=(1, 50)) + rng.normal(size=(3, 50))
        within = FIXED.mean(d_SP.mean(axis=0), 0.95, [1], binary=False)
        assert within is not None
        wrong += not within.low <= 0 <= within.high
    assert wrong / 200 > 0.4
