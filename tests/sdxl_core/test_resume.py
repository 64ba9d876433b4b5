"""A run that is stopped, killed or made longer ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sdxl_core.bundle import read_bundle
from sdxl_core.bundles import damage
from sdxl_core.errors import UserError
from sdxl_core.exit_codes import EXIT_KILLED, EXIT_PREEMPTED, EXIT_USER_ERROR
from sdxl_core.train import main
from sdxl_core.train_job import Ancestor, TrainJob
from tests.sdxl_core.jobs import LORA, Jobs, bundle_steps, files, history, run, start, wait_for_step, write_job
from tests.tiers import first_of

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"objective": {"kind": "diffusion"}, "adapter": {**LORA, "dropout": 0.1}, "ema": None},
    "dreambooth": {"validation": {"every_steps": 2, "prompts": ["a photo of a person"]}},
    "full": {"objective": {"kind": "diffusion"}, "adapter": {"kind": "full"}, "learning_rate": 1e-4},
    "watched": {
        "ema": {"decay": 0.9, "warmup": "power", "update_every_steps": 2, "device": "cpu"},
        "validation": {"loss": {"every_steps": 1, "pictures": 1, "timesteps": [100, 600]}},
        "export": "best",
        "keep_bundles": 1,
    },
}


@pytest.fixture(scope="module")
def undisturbed(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainJob]:
    """Every method's finished run of six steps."""
    root = tmp_path_factory.mktemp("undisturbed")
    finished = {method: jobs(root / method, **settings) for method, settings in METHODS.items()}
    for job in finished.values():
        assert run(job)
    return finished


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def assert_ended_alike(job: TrainJob, undisturbed: TrainJob) -> None:
    """Exports, and everything in the last bundle."""
    assert files(job.out) == files(undisturbed.out)
    assert_same_state(job, undisturbed)


def assert_same_state(job: TrainJob, undisturbed: TrainJob) -> None:
    """Weights, moments, averages, counters and history of the last bundle."""
    last = [read_bundle(each.work / "bundles" / "step-00000006") for each in (job, undisturbed)]
    for part in ("weights", "average", "optimizer", "scaler", "counters", "history"):
        assert same(*(getattr(bundle, part) for bundle in last)), part


@pytest.mark.parametrize("method", first_of(METHODS))
def test_a_run_made_longer_equals_a_long_one(
    jobs: Jobs, undisturbed: dict[str, TrainJob], tmp_path: Path, method: str
) -> None:
    """Three steps, an end, and three more: the same as six, and the first three are not done again."""
    short = jobs(tmp_path, **METHODS[method], max_steps=3)
    assert run(short)
    first, kept = files(short.out), bundle_steps(short)
    long = jobs(tmp_path, **METHODS[method]).model_copy(update={"out": tmp_path / "long"})
    started = time.time()
    assert run(long)
    assert_ended_alike(long, undisturbed[method])
    source = long.work / "bundles" / "step-00000003"
    assert source.stat().st_mtime < started  # untouched, and nothing before it was made again
    assert not [n for n in bundle_steps(long) if n < 3 and n not in kept]
    assert run(short.model_copy(update={"out": tmp_path / "again"}))  # and the short one is still to be had
    assert files(tmp_path / "again") == first


@pytest.mark.parametrize(
    ("method", "seed"),
    [("watched", 0)]  # the rest are of the same kind, and stopped otherwise below
    + [pytest.param("dreambooth", 0, marks=pytest.mark.slow)]
    + [pytest.param(m, s, marks=pytest.mark.slow) for s in range(1, 6) for m in METHODS],
)
def test_a_killed_run_ends_with_the_same_bits(
    jobs: Jobs, undisturbed: dict[str, TrainJob], tmp_path: Path, method: str, seed: int
) -> None:
    """kill -9 at a random moment between the first step and the end."""
    job = jobs(tmp_path, **METHODS[method], log_every_steps=1)
    chance = random.Random(seed)
    process = start(job)
    wait_for_step(process, chance.randint(1, 5))
    time.sleep(chance.random() * 0.3)
    process.kill()
    process.wait()
    assert not files(job.out)
    assert run(jobs(tmp_path, **METHODS[method]))
    assert_ended_alike(job, undisturbed[method])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_too_if_asked_to(jobs: Jobs, tmp_path: Path, precision: str) -> None:
    """With deterministic kernels, in processes of their own as these are set for good."""
    settings = {**METHODS["dreambooth"], "deterministic": True, "precision": precision}
    straight = jobs(tmp_path / "straight", "cuda", **settings)
    assert start(straight).wait() == 0
    assert start(jobs(tmp_path / "halves", "cuda", **settings, max_steps=3)).wait() == 0
    job = jobs(tmp_path / "halves", "cuda", **settings)
    assert start(job).wait() == 0
    assert_ended_alike(job, straight)


@pytest.mark.ci
def test_deterministic_kernels_are_there_for_all_that_is_computed(jobs: Jobs, tmp_path: Path) -> None:
    """torch refuses an operation that has none; and on a CPU nothing changes by them."""
    plain, deterministic = jobs(tmp_path / "a", max_steps=2), jobs(tmp_path / "b", max_steps=2, deterministic=True)
    assert run(plain)
    assert start(deterministic).wait() == 0
    assert history(deterministic) == history(plain)


@pytest.mark.ci
def test_sigterm_saves_and_says_so(jobs: Jobs, undisturbed: dict[str, TrainJob], tmp_path: Path) -> None:
    """In the middle of a step, which is finished first; then the run goes on to the same end."""
    job = jobs(tmp_path, **METHODS["dreambooth"], log_every_steps=1, save_every_steps=1000)
    process = start(job)
    wait_for_step(process, 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_PREEMPTED
    bundles = list((job.work / "bundles").iterdir())
    assert len(bundles) == 1 and damage(bundles[0]) is None
    assert run(jobs(tmp_path, **METHODS["dreambooth"]))
    assert_ended_alike(job, undisturbed["dreambooth"])


@pytest.mark.ci
def test_sigterm_in_a_save_lets_it_finish(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, max_steps=500, log_every_steps=1)
    process = start(job, "tests.sdxl_core.faulty", "long save")
    assert process.stdout is not None
    next(line for line in process.stdout if "asleep" in line)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_PREEMPTED
    found = list((job.work / "bundles").iterdir())
    assert found and all(damage(bundle) is None for bundle in found)


@pytest.mark.ci
def test_a_second_sigterm_ends_at_once(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path)
    process = start(job, "tests.sdxl_core.faulty", "long step")
    assert process.stdout is not None
    next(line for line in process.stdout if "asleep" in line)
    process.send_signal(signal.SIGTERM)
    next(line for line in process.stdout if "asked to stop" in line)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=2) == EXIT_KILLED
    assert bundle_steps(job) == [2]


def test_a_changed_setting_is_refused_by_name(jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(jobs(tmp_path, max_steps=2))
    changed = jobs(tmp_path, learning_rate=2e-3, seed=5, adapter={"kind": "lora", "rank": 4}, lr_schedule="cosine")
    changed = changed.model_copy(update={"identity": {"data": "e"}})
    assert main([str(write_job(changed))]) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    for line in (
        "training.learning_rate: 0.001 -> 0.002",
        "training.seed: 0 -> 5",
        "training.adapter.rank: 2 -> 4",
        "training.adapter.dropout: 0.1 -> 0.0",
        "training.lr_schedule.kind: 'constant' -> 'cosine'",
        "training.max_steps: None -> 6",
        "inputs.data: 'd' -> 'e'",
    ):
        assert line in said
    assert bundle_steps(changed) == [2]


def test_an_overridden_rate_takes_effect_from_there_on(jobs: Jobs, tmp_path: Path) -> None:
    assert run(jobs(tmp_path, max_steps=2))
    slower = jobs(tmp_path, max_steps=4, learning_rate=1e-5, optimizer={"weight_decay": 0.5})
    slower = slower.model_copy(update={"override": ("training.learning_rate", "training.optimizer.weight_decay")})
    assert run(slower)
    assert [row["learning_rate"] for row in history(slower)] == pytest.approx([1e-3, 1e-3, 1e-5, 1e-5])
    saved = read_bundle(slower.work / "bundles" / "step-00000004")
    assert saved.optimizer["param_groups"][0]["weight_decay"] == 0.5
    assert saved.identity["training"]["learning_rate"] == 1e-5


@pytest.mark.ci
def test_another_split_of_the_same_rows_can_go_on(jobs: Jobs, tmp_path: Path) -> None:
    """Four rows at once, then two and two: refused, and after --override the same but for rounding."""
    reference = jobs(tmp_path / "reference", micro_batch_size=4, adapter=LORA, max_steps=4)
    assert run(reference)
    assert run(jobs(tmp_path, micro_batch_size=4, adapter=LORA, max_steps=2))
    split = jobs(tmp_path, micro_batch_size=2, accumulation_steps=2, adapter=LORA, max_steps=4)
    with pytest.raises(UserError, match=r"training\.accumulation_steps: 1 -> 2"):
        run(split)
    keys = ("training.micro_batch_size", "training.accumulation_steps")
    split = split.model_copy(update={"override": keys})
    assert run(split)
    for ours, theirs in zip(history(split), history(reference), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    more = jobs(tmp_path, micro_batch_size=4, accumulation_steps=2, adapter=LORA, max_steps=6)
    with pytest.raises(UserError, match="rows_per_step: 4 -> 8"):
        run(more.model_copy(update={"override": keys}))


def test_a_run_can_begin_with_anothers_bundle(
    jobs: Jobs, undisturbed: dict[str, TrainJob], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = undisturbed["dreambooth"].work / "bundles" / "step-00000004"
    job = jobs(tmp_path, **METHODS["dreambooth"]).model_copy(update={"ancestor": Ancestor.of(given)})
    assert run(job)
    assert_same_state(job, undisturbed["dreambooth"])
    assert [path.name for path in (job.out / "validation").iterdir()] == ["000006-00.png"]  # those it drew itself
    assert json.loads((job.out / "training.json").read_text())["ancestor"] == Ancestor.of(given).digest
    gone = Ancestor(path=tmp_path / "step-00000004", step=4, digest="d")
    nowhere = jobs(tmp_path / "b", **METHODS["dreambooth"]).model_copy(update={"ancestor": gone})
    assert main([str(write_job(nowhere))]) == EXIT_USER_ERROR
    assert "there is no such bundle" in capsys.readouterr().err
    assert bundle_steps(nowhere) == []


@pytest.mark.ci
def test_bundles_that_are_all_damaged_are_no_fresh_start(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs(tmp_path, max_steps=4)
    assert run(job)
    for bundle in (job.work / "bundles").iterdir():
        (bundle / "optimizer.pt").write_bytes(b"")
    assert main([str(write_job(job))]) == EXIT_USER_ERROR
    said = capsys.readouterr()
    assert "none of 2 bundles can be gone on from" in said.err
    assert "step-00000002" in said.out and "step-00000004" in said.out
    assert run(job.model_copy(update={"allow_fresh": True}))
    assert bundle_steps(job) == [2, 4]


def test_saves_come_by_the_clock_too(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, max_steps=3, save_every_steps=1000, save_every_minutes=1e-6, keep_bundles=9)
    assert run(job)
    assert bundle_steps(job) == [1, 2, 3]
