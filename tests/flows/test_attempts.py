"""How often a run that crashes is begun again."""

from __future__ import annotations

import pytest

from flows.attempts import crashes_in_a_row

BEGUN = [("SCHEDULED", ""), ("PENDING", ""), ("RUNNING", "")]
DEAD = ("CRASHED", "no sign of life for 90 s")
STOPPED = ("CRASHED", "Execution was aborted by a termination signal.")


@pytest.mark.parametrize(
    ("states", "crashes"),
    [
        ([], 0),
        (BEGUN, 0),
        ([*BEGUN, DEAD] * 2 + BEGUN, 2),
        ([*BEGUN, STOPPED] * 5 + [*BEGUN, DEAD] + BEGUN, 1),
        ([*BEGUN, DEAD] * 4 + [*BEGUN, ("FAILED", "")] + BEGUN, 0),
        ([*BEGUN, DEAD, *BEGUN, ("CANCELLING", ""), ("CANCELLED", ""), *BEGUN, DEAD], 1),
    ],
)
def test_crashes_count_since_the_run_last_ended_otherwise(states: list[tuple[str, str]], crashes: int) -> None:
    assert crashes_in_a_row(states) == crashes
