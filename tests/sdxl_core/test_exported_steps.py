"""Steps beside the result: byte for byte what the training would have left there, whatever happened to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sdxl_core.bundle_export import export_bundle
from sdxl_core.errors import UserError
from sdxl_core.train_job import Ancestor, TrainJob
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_config.exported_steps import exported_steps
from tests.sdxl_core.jobs import Jobs, bundle_steps, files, run, start, wait_for_step, write_job
from tests.sdxl_core.test_text_training import METHODS, job_of

EVERY: dict[str, Any] = {"export_every_steps": 2, "save_every_steps": 1000, "keep_bundles": 1}
"""Of six steps, the second and the fourth."""
BEST: dict[str, Any] = {"export": "best", "validation": {"loss": {"every_steps": 3, "pictures": 1}}}
KINDS: dict[str, dict[str, Any]] = {
    "average": {},
    "weights": {"ema": None, "save_every_steps": 1},
    "schedule-free": {"ema": None, "optimizer": {"kind": "schedule_free"}, "lr_schedule": "constant"},
    "pissa": {"adapter": {"kind": "lora", "rank": 2, "init": "pissa"}},
    "dora": {"adapter": {"kind": "lora", "rank": 2, "use_dora": True}},
    "loha": {"adapter": {"kind": "loha", "rank": 2}},
    "lokr": {"adapter": {"kind": "lokr", "rank": 2}},
    "oft": {"adapter": {"kind": "oft", "block_size": 4}},
    "full": {"adapter": {"kind": "full"}, "learning_rate": 1e-5},
    "bf16": {"adapter": {"kind": "full"}, "trained_weights": "bf16", "precision": "bf16", "ema": None},
    "best": BEST,
}


def slow(case: Any) -> Any:
    return pytest.param(case, marks=pytest.mark.slow)


def steps_of(job: TrainJob) -> list[int]:
    return sorted(int(path.name) for path in (job.out / "steps").iterdir())


def assert_as_bundles_say(job: TrainJob, again: Path, expected: list[int]) -> None:
    assert steps_of(job) == expected
    for step in expected:
        export_bundle(job.work / "bundles" / f"step-{step:08d}", job.model, again / str(step))
        made = files(job.out / "steps" / f"{step:08d}")
        assert made == files(again / str(step)) and any(name.endswith(".safetensors") for name in made)


@pytest.mark.ci
@pytest.mark.parametrize("kind", [kind if kind in ("average", "full", "best") else slow(kind) for kind in KINDS])
def test_a_step_is_byte_for_byte_its_bundle(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    """And nothing else of the result is moved by it."""
    job, plain = jobs(tmp_path / "steps", **EVERY | KINDS[kind]), jobs(tmp_path / "plain", **KINDS[kind])
    assert run(job) and run(plain)
    assert_as_bundles_say(job, tmp_path / "again", [2, 4, 6] if kind == "best" else [2, 4])
    left = {name: data for name, data in files(job.out).items() if not name.startswith("steps/")}
    described, expected = json.loads(left.pop("training.json")), json.loads(files(plain.out)["training.json"])
    assert described == expected | {"exported_steps": steps_of(job)}
    assert left == {name: data for name, data in files(plain.out).items() if name != "training.json"}


@pytest.mark.parametrize("method", ["pivotal", *(slow(method) for method in ("lora", "full", "textual_inversion"))])
def test_new_words_and_text_encoders_are_in_it(jobs: Jobs, tmp_path: Path, method: str) -> None:
    job = job_of(jobs, tmp_path, **EVERY | METHODS[method])
    assert run(job)
    assert_as_bundles_say(job, tmp_path / "again", [2])


def weights(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name.endswith(".safetensors")}


@pytest.mark.ci
def test_a_step_is_what_a_run_of_so_many_steps_leaves(jobs: Jobs, tmp_path: Path) -> None:
    long, short = jobs(tmp_path / "long", **EVERY), jobs(tmp_path / "short", max_steps=4)
    assert run(long) and run(short)
    assert weights(long.out / "steps" / "00000004") == weights(short.out) != weights(long.out)


@pytest.mark.ci
def test_its_bundles_stay_and_no_other(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, **EVERY | {"save_every_steps": 1, "export_every_steps": 3, "max_steps": 8})
    assert run(job)
    assert bundle_steps(job) == [3, 6, 8]


@pytest.mark.ci
def test_a_run_made_longer_has_the_earlier_steps_too(jobs: Jobs, tmp_path: Path) -> None:
    straight = jobs(tmp_path / "straight", **EVERY)
    short, long = (jobs(tmp_path / "halves", **EVERY | {"max_steps": n}) for n in (3, 6))
    long = long.model_copy(update={"out": tmp_path / "halves" / "long"})
    assert run(straight) and run(short) and run(long)
    assert steps_of(short) == [2]
    assert files(long.out) == files(straight.out) and steps_of(long) == [2, 4]


@pytest.mark.ci
@pytest.mark.parametrize("step", [3, slow(1), slow(5)])
def test_a_killed_run_ends_with_the_same_steps(jobs: Jobs, tmp_path: Path, step: int) -> None:
    straight = jobs(tmp_path / "straight", **EVERY | BEST)
    job = jobs(tmp_path / "killed", **EVERY | BEST, log_every_steps=1)
    assert run(straight)
    process = start(job)
    wait_for_step(process, step)
    process.kill()
    process.wait()
    again = jobs(tmp_path / "killed", **EVERY | BEST)
    assert run(again)
    assert files(again.out) == files(straight.out) and steps_of(again) == [2, 4, 6]


@pytest.mark.ci
def test_a_kill_among_the_exports_costs_the_exports_alone(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxl_core import finished

    straight, job = jobs(tmp_path / "straight", **EVERY), jobs(tmp_path / "killed", **EVERY)
    assert run(straight)
    with monkeypatch.context() as patch:

        def fails(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(finished, "describe", fails)
        with pytest.raises(KeyboardInterrupt):
            run(job)
    assert bundle_steps(job) == [2, 4, 6]
    assert run(job)
    assert files(job.out) == files(straight.out)


@pytest.mark.ci
def test_a_step_that_was_lost_is_made_again_from_the_one_before(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs(tmp_path, **EVERY)
    assert run(job)
    expected = files(job.out)
    (job.work / "bundles" / "step-00000004" / "weights.safetensors").write_bytes(b"")
    shutil.rmtree(job.out)
    assert run(job)
    said = capsys.readouterr().out
    assert "passed over: step-00000004, which training.export_every_steps asks for, is not whole: weights" in said
    assert "going on from step 2 of 6" in said
    assert files(job.out) == expected


@pytest.mark.ci
def test_steps_whose_states_are_gone_are_not_silently_left_out(jobs: Jobs, tmp_path: Path) -> None:
    """Asked for when the run had ended without them: said, and to be had by --fresh, with the same bits."""
    straight = jobs(tmp_path / "straight", **EVERY)
    assert run(straight) and run(jobs(tmp_path / "late", max_steps=6, save_every_steps=5, keep_bundles=2))
    late = jobs(tmp_path / "late", **EVERY)
    gone = r"step-00000006: step-00000002, which training\.export_every_steps asks for, is not there\); --fresh"
    with pytest.raises(UserError, match=gone):
        run(late)
    assert run(late.model_copy(update={"allow_fresh": True}))
    assert files(late.out) == files(straight.out)


def test_another_run_s_steps_are_not_exported_and_that_is_said(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = jobs(tmp_path / "first", max_steps=2)
    assert run(first)
    ancestor = Ancestor.of(first.work / "bundles" / "step-00000002")
    job = jobs(tmp_path / "second", **EVERY).model_copy(update={"ancestor": ancestor})
    assert run(job)
    assert steps_of(job) == [4]
    assert "steps 2 are of the run that this one began with, and are not exported" in capsys.readouterr().out


def test_which_steps_is_no_part_of_what_a_training_is() -> None:
    plain, steps = TrainingConfig(), TrainingConfig(export_every_steps=250)
    assert steps.lasting == plain.lasting
    assert exported_steps(plain) == ()
    assert exported_steps(steps) == (250, 500, 750)
    assert exported_steps(steps, after=250) == (500, 750) and exported_steps(steps, after=251) == (500, 750)
    last = steps.model_copy(update={"export": "best"})
    assert exported_steps(last) == (250, 500, 750, 1000)


@pytest.mark.parametrize("every", [0, 6, 7])
def test_an_interval_that_exports_nothing_is_refused(every: int) -> None:
    with pytest.raises(ValidationError, match="export_every_steps"):
        TrainingConfig(max_steps=6, export_every_steps=every)


DIVIDED: dict[str, Any] = {"objective": {"kind": "diffusion"}, "adapter": {"kind": "full"}, "learning_rate": 1e-3}
TWO: dict[str, dict[str, Any]] = {
    "lora": {"micro_batch_size": 1, "processes": 2},
    "divided": DIVIDED | {"micro_batch_size": 1, "processes": 2, "shard_weights": True},
    "divided-best": DIVIDED | BEST | {"micro_batch_size": 1, "processes": 2, "shard_weights": True},
}


def run_in_two(job: TrainJob) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "sdxl_core.train", str(write_job(job))]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", TWO)
def test_two_processes_leave_them_too_and_after_an_end_between(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    settings = EVERY | TWO[kind]
    straight = jobs(tmp_path / "straight", **settings)
    run_in_two(straight)
    assert_as_bundles_say(straight, tmp_path / "again", [2, 4, 6] if kind == "divided-best" else [2, 4])
    run_in_two(jobs(tmp_path / "halves", **settings | {"max_steps": 3}))
    long = jobs(tmp_path / "halves", **settings).model_copy(update={"out": tmp_path / "long"})
    run_in_two(long)
    assert files(long.out) == files(straight.out)
