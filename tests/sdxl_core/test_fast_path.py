"""Half precision on a processor learns what float32 learns: the tolerance that docs/training/speed.md states."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sdxl_core.jobs import Jobs, history, run
from tests.sdxl_core.test_memory_saving import PLAIN

STEPS = 30
LAST = slice(-10, None)
FAST = {"precision": "bf16", "attention": "math"}


@pytest.mark.ci
@pytest.mark.parametrize("layout", [{}, {"channels_last": True}], ids=["", "channels last"])
def test_losses_follow_those_of_float32(jobs: Jobs, tmp_path: Path, layout: dict[str, bool]) -> None:
    """Also as held against what training does to them: what learned nothing would not pass."""
    settings = {**PLAIN, "max_steps": STEPS, "save_every_steps": STEPS, "log_every_steps": 1, "learning_rate": 3e-3}

    def losses(name: str, **more: object) -> list[float]:
        job = jobs(tmp_path / name, **{**settings, **more})
        assert run(job)
        return [line["loss"] for line in history(job)]

    plain, fast, untrained = losses("plain"), losses("fast", **FAST, **layout), losses("untrained", learning_rate=1e-12)
    assert len(plain) == len(fast) == len(untrained) == STEPS
    assert fast == pytest.approx(plain, rel=5e-3) and fast != plain
    learned = sum(untrained[LAST]) - sum(plain[LAST])
    assert learned > 0 and abs(sum(fast[LAST]) - sum(plain[LAST])) < 0.02 * learned
