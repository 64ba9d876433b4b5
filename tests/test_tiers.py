"""The tiers of tests: what `first_of` leaves to CI."""

from __future__ import annotations

import pytest

from tests.tiers import first_of

ALONE, MARKED = 3, pytest.param(4, "four", marks=pytest.mark.slow, id="marked")


def test_the_first_cases_are_as_they_were_and_the_rest_are_cis() -> None:
    first, second, third = first_of([MARKED, ALONE, MARKED])
    assert first is MARKED
    assert (second.values, [mark.name for mark in second.marks]) == ((3,), ["ci"])
    assert (third.values, [mark.name for mark in third.marks]) == ((4, "four"), ["slow", "ci"])
    assert third.id == "marked"
    assert first_of([ALONE, ALONE], count=2) == [ALONE, ALONE]
