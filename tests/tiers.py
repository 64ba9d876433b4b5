"""Cases of a test that are much alike: `make test` asks the first ones, CI all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_of(cases: Iterable[Any], count: int = 1) -> list[Any]:
    """For `parametrize`: the cases, those after the first `count` marked `ci` beside marks they have."""
    return [case if place < count else _of_ci(case) for place, case in enumerate(cases)]


def _of_ci(case: Any) -> Any:
    if hasattr(case, "marks") and hasattr(case, "values"):  # `pytest.param` already; its class has no public name
        return pytest.param(*case.values, marks=[*case.marks, pytest.mark.ci], id=case.id)
    return pytest.param(case, marks=pytest.mark.ci)
