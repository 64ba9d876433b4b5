"""Cases of a test that are much alike: `make test` asks the first ones, CI all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_of(cases: Iterable[Any], count: int = 1) -> list[Any]:
    """For `parametrize`: the cases, those after the first `count` marked `ci`."""
    return [case if place < count else pytest.param(case, marks=pytest.mark.ci) for place, case in enumerate(cases)]
