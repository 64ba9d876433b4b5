"""Whole verdicts where the truth is known: from scores to headline, gates and intervals.

docs/statistics.md has the same of more runs and more truths.
"""

from __future__ import annotations

import pytest

from benchmarks.verdicts import NOT_WORSE, SCENARIOS, Tally, Truth, tally

RUNS = 400
NOISE = 0.011  # standard error of a rate of 5 % over so many runs
NULL = "nothing differs, {}, {} prompts"


def is_honest(found: Tally) -> None:
    """False findings of any of three metrics, promotions, and coverage; with two standard errors for the simulation."""
    assert found.found <= 0.05 + 2 * NOISE
    assert found.promoted <= 0.025 + 2 * 0.008, "a gate passes on one side only"
    assert 0.93 <= found.covered <= 0.97


@pytest.mark.ci
def test_nothing_is_found_where_nothing_is() -> None:
    is_honest(tally(SCENARIOS[NULL.format("normal", 50)], RUNS))


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [50, 200])
@pytest.mark.parametrize("shape", ["normal", "heavy tails", "skewed", "half of them ties"])
def test_nothing_is_found_whatever_the_scores_are_like(shape: str, prompts: int) -> None:
    is_honest(tally(SCENARIOS[NULL.format(shape, prompts)], RUNS))


@pytest.mark.slow
def test_replicates_do_not_count_as_prompts() -> None:
    is_honest(tally(SCENARIOS["nothing differs, 50 prompts of 4 seeds"], RUNS))


@pytest.mark.slow
def test_a_guard_that_is_broken_by_its_margin_is_hardly_ever_promoted() -> None:
    assert tally(Truth(100, (0.8, -0.5), gates=NOT_WORSE), RUNS).promoted <= 0.025 + 2 * 0.008


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("sequential, nothing")])
def test_looking_often_keeps_the_promise(name: str) -> None:
    found = tally(SCENARIOS[name], RUNS)
    assert found.found <= 0.05 + 2 * NOISE and found.promoted <= 0.025 + 2 * 0.008
    assert found.covered >= 0.93, "at whichever look it stops; more than asked is what looking costs"


@pytest.mark.slow
def test_the_best_of_five_is_not_better_for_having_been_chosen() -> None:
    """Judged on other prompts; judged on its own, one in ten would be found better than its equal."""
    is_honest(tally(SCENARIOS["the best of five by 100 prompts, nothing differs, judged on 100 others"], RUNS))
    same = tally(
        SCENARIOS["the best of five, nothing differs, judged on the prompts that chose it (not done here)"], RUNS
    )
    assert same.promoted > 0.06 and same.covered < 0.93


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [50, 200])
def test_five_candidates_find_no_more_than_one(prompts: int) -> None:
    is_honest(tally(SCENARIOS[f"five candidates, nothing differs, {prompts} prompts"], RUNS))
