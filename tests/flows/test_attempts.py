"""How often a run that crashes is begun again."""

from __future__ import annotations

import pytest

from flows.attempts import crashes_in_a_row

BEGUN = ["SCHEDULED", "PENDING", "RUNNING"]


@pytest.mark.parametrize(
    ("types", "crashes"),
    [
        ([], 0),
        (BEGUN, 0),
        ([*BEGUN, "CRASHED"] * 2 + BEGUN, 2),
        ([*BEGUN, "CRASHED"] * 4 + [*BEGUN, "FAILED"] + BEGUN, 0),
        ([*BEGUN, "CRASHED", *BEGUN, "CANCELLING", "CANCELLED", *BEGUN, "CRASHED"], 1),
    ],
)
def test_crashes_count_since_the_run_last_ended_otherwise(types: list[str], crashes: int) -> None:
    assert crashes_in_a_row(types) == crashes
