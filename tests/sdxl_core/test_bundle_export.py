"""A bundle exported by itself is what the training leaves when it ends there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdxl_core.bundle_export import export_bundle
from sdxl_core.errors import UserError
from tests.sdxl_core.jobs import Jobs, files, run

KINDS: dict[str, dict[str, Any]] = {
    "average": {},
    "weights": {"ema": None},
    "schedule-free": {"ema": None, "optimizer": {"kind": "schedule_free"}, "lr_schedule": "constant"},
    "pissa": {"adapter": {"kind": "lora", "rank": 2, "init": "pissa"}},
    "lokr": {"adapter": {"kind": "lokr", "rank": 2}},
    "full": {"adapter": {"kind": "full"}, "learning_rate": 1e-5},
}


@pytest.mark.ci
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_byte_for_byte_the_training_s(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    job = jobs(tmp_path, max_steps=2, **KINDS[kind])
    assert run(job)
    bundle = job.work / "bundles" / "step-00000002"
    assert export_bundle(bundle, job.model, tmp_path / "again") == {"step": 2}
    expected = {name: data for name, data in files(job.out).items() if name.endswith((".safetensors", "config.json"))}
    made = {name: data for name, data in files(tmp_path / "again").items() if name != "training.json"}
    assert made == expected and expected


def test_a_bundle_that_is_not_whole_is_refused(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, max_steps=2)
    assert run(job)
    bundle = job.work / "bundles" / "step-00000002"
    (bundle / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-00000002: this bundle is not whole: weights\.safetensors has 0 bytes"):
        export_bundle(bundle, job.model, tmp_path / "again")
