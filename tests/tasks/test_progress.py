"""Rate and time left."""

from __future__ import annotations

import pytest

from tasks.progress import Meter, describe, stage_progress


def test_what_was_done_before_is_not_taken_for_speed() -> None:
    times = iter([100.0, 110.0, 120.0])
    meter = Meter(clock=lambda: next(times))
    assert meter.read(90, 200) == (0.0, None)
    assert meter.read(100, 200) == (1.0, 100.0)
    assert meter.read(130, 200) == (2.0, 35.0)


@pytest.mark.parametrize(
    ("rate", "left_s", "text"),
    [
        (0.0, None, "train 1/2"),
        (12.5, 30, "train 1/2 · 12.5/s · 30 s left · loss 1"),
        (0.25, 1200, "train 1/2 · 4 s each · 20 min left · loss 1"),
        (0.25, 9000, "train 1/2 · 4 s each · 2.5 h left · loss 1"),
    ],
)
def test_it_reads_well(rate: float, left_s: float | None, text: str) -> None:
    assert describe("train", 1, 2, rate, left_s, "loss 1" if rate else "") == text


def test_an_absent_server_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**arguments: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", unreachable)
    with stage_progress("train", publish=True) as progress:
        for step in range(100):
            progress(step, 100)
