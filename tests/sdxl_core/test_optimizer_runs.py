"""Runs of the trainer with every optimizer, with bfloat16 weights, with updates in the backward pass, with parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from sdxl_core.bundle import read_bundle
from sdxl_core.ema import Ema
from sdxl_core.errors import UserError
from sdxl_core.loop import NonFiniteRunError
from sdxl_core.objectives import OBJECTIVES
from sdxl_core.run import Run, set_up
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import EmaConfig, TrainingConfig
from tests.sdxl_core.jobs import LORA, Jobs, bundle_steps, files, history, run
from tests.sdxl_core.optimizing import KINDS, SEPARABLE, SETTINGS
from tests.sdxl_core.test_faults import Exploding, SmallMemory, with_latents_of
from tests.sdxl_core.test_resume import assert_same_state
from tests.tiers import first_of

PLAIN: dict[str, Any] = {"objective": {"kind": "diffusion"}, "adapter": LORA, "ema": None, "save_every_steps": 3}
FULL: dict[str, Any] = {**PLAIN, "adapter": {"kind": "full"}, "learning_rate": 1e-4, "max_grad_norm": 1e6}
BF16: dict[str, Any] = {"trained_weights": "bf16", "precision": "bf16"}


@contextmanager
def prepared(job: TrainJob) -> Iterator[Run]:
    """Set up in this process, which remembers nothing of other runs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield set_up(job)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def last_bundle(job: TrainJob) -> Any:
    return read_bundle(job.work / "bundles" / "step-00000006")


def assert_goes_on_exactly(jobs: Jobs, root: Path, **settings: Any) -> TrainJob:
    """Three steps and an end, then three more by another process's objects: six in one go. Returns the six."""
    straight = jobs(root / "straight", **settings)
    assert run(straight)
    assert run(jobs(root / "halves", **settings, max_steps=3))
    halves = jobs(root / "halves", **settings).model_copy(update={"out": root / "long"})
    assert run(halves)
    assert files(halves.out) == files(straight.out)
    assert_same_state(halves, straight)
    return straight


@pytest.mark.parametrize("kind", first_of(KINDS))
def test_a_run_goes_on_bit_for_bit(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    """8-bit moments are of large tensors only, which the toy's adapters are not."""
    adapter = FULL["adapter"] if kind == "adamw_8bit" else LORA
    job = assert_goes_on_exactly(jobs, tmp_path, **{**PLAIN, **SETTINGS[kind], "adapter": adapter})
    assert all(math.isfinite(row["loss"]) for row in history(job))


def test_prodigys_estimate_is_a_curve(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, **{**PLAIN, **SETTINGS["prodigy"], "max_steps": 2})
    assert run(job)
    for row in history(job):
        assert row["prodigy_d"] == pytest.approx(1e-6) and row["learning_rate"] == 1


@pytest.mark.ci
def test_schedule_free_pictures_and_export_are_the_averages_and_training_is_not_disturbed(
    jobs: Jobs, tmp_path: Path
) -> None:
    settings = {**PLAIN, **SETTINGS["schedule_free"]}
    watched = jobs(tmp_path / "watched", **settings, validation={"every_steps": 1, "prompts": ["a photo of a person"]})
    plain = jobs(tmp_path / "plain", **settings)
    for job in (watched, plain):
        assert run(job)
    assert last_bundle(watched).history == last_bundle(plain).history
    ends = [last_bundle(job) for job in (watched, plain)]
    assert all(torch.equal(ends[0].weights[name], weight) for name, weight in ends[1].weights.items())
    exported = load_file(plain.out / "pytorch_lora_weights.safetensors")
    with prepared(plain) as again:
        names = list(again.state.trainable)
    for number, name in enumerate(names):
        y, z = ends[1].weights[name].double(), ends[1].optimizer["state"][number]["z"].double()
        x = exported[name.replace(".default.", ".")].double()
        assert not torch.equal(x, y)
        torch.testing.assert_close(x, (y - 0.1 * z) / 0.9, rtol=1e-4, atol=1e-7)


@pytest.mark.ci
def test_bfloat16_weights_go_on_bit_for_bit(jobs: Jobs, tmp_path: Path) -> None:
    straight = assert_goes_on_exactly(jobs, tmp_path, **FULL, **BF16)
    saved = last_bundle(straight)
    assert {weight.dtype for weight in saved.weights.values()} == {torch.bfloat16}
    unet = UNet2DConditionModel.from_pretrained(straight.out / "unet", torch_dtype=torch.bfloat16)
    assert all(torch.equal(tensor, saved.weights[f"unet.{name}"]) for name, tensor in unet.state_dict().items())
    reference = jobs(tmp_path / "fp32", **FULL, precision="bf16", max_steps=2)
    assert run(reference)
    for ours, theirs in zip(history(straight), history(reference), strict=False):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05)


def test_bfloat16_adapters_have_float32_averages_and_exports(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, **{**PLAIN, "ema": {"decay": 0.9}}, **BF16, max_steps=2)
    assert run(job)
    saved = read_bundle(job.work / "bundles" / "step-00000002")
    assert {weight.dtype for weight in saved.weights.values()} == {torch.bfloat16}
    assert {average.dtype for average in saved.average.values()} == {torch.float32}
    exported = load_file(job.out / "pytorch_lora_weights.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.float32}


def test_an_average_of_bfloat16_weights_is_float32() -> None:
    parameter = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    ema = Ema(EmaConfig(decay=0.999, min_decay=0.999), {"a": parameter})
    ema.update(1)
    parameter.data.fill_(2.0)
    ema.update(2)
    assert ema.averages[0].tolist() == pytest.approx([1.001, 1.001], rel=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("kind", [*SEPARABLE, "adamw in bf16"])
def test_updates_in_the_backward_pass_are_the_same_bit_for_bit(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    """Where clipping never acts; with gradient checkpointing, which computes forward passes among the updates."""
    more = BF16 if kind.endswith("bf16") else {}
    settings = {**FULL, "optimizer": {"kind": kind.split()[0]}, "gradient_checkpointing": True, "max_steps": 3, **more}
    plain, fused = jobs(tmp_path / "plain", **settings), jobs(tmp_path / "fused", **settings, fused_backward=True)
    for job in (plain, fused):
        assert run(job)
    ours, theirs = (read_bundle(job.work / "bundles" / "step-00000003") for job in (fused, plain))
    assert all(torch.equal(ours.weights[name], weight) for name, weight in theirs.weights.items())
    for ours_row, theirs_row in zip(history(fused), history(plain), strict=True):
        assert ours_row["loss"] == theirs_row["loss"]
        assert ours_row["grad_norm"] == pytest.approx(theirs_row["grad_norm"], rel=1e-2 if more else 1e-6)


@pytest.mark.ci
def test_fused_runs_go_on_bit_for_bit(jobs: Jobs, tmp_path: Path) -> None:
    assert_goes_on_exactly(jobs, tmp_path, **{**FULL, "max_grad_norm": 0.01}, fused_backward=True)


def test_no_gradient_outlives_its_update_and_each_is_clipped_by_its_own_norm(jobs: Jobs, tmp_path: Path) -> None:
    with prepared(jobs(tmp_path, **{**FULL, "max_grad_norm": 0.5}, fused_backward=True)) as fused:
        look_into_a_step(fused)


def look_into_a_step(fused: Run) -> None:
    state, stepping = fused.state, fused.state.stepping
    held: list[int] = []
    norms: list[float] = []

    def look(parameter: nn.Parameter) -> None:  # runs after the update's own hook
        held.append(sum(p.grad is not None for p in state.parameters))

    for parameter in state.parameters:
        parameter.register_post_accumulate_grad_hook(look)  # type: ignore[no-untyped-call]
        parameter.register_hook(lambda gradient: norms.append(float(gradient.norm())))
    stepping.begin(0)
    stepping.backward(10 * fused.objective(state.denoiser, fused.data.batch(0, range(2))).loss)
    assert len(held) == len(state.parameters) and max(held) <= 1
    assert all(parameter.grad is None for parameter in state.parameters)
    assert float(stepping.grad_norm()) == pytest.approx(math.hypot(*norms), rel=1e-4)
    assert max(norms) > 0.5  # so that clipping acts on some
    moments = stepping.optimizer.state
    for parameter in state.parameters:  # after one step, the first moment is a tenth of the clipped gradient
        assert float(moments[parameter]["exp_avg"].norm()) <= 0.1 * 0.5 * 1.001


def test_a_loss_that_is_not_finite_leaves_fused_weights_alone(jobs: Jobs, tmp_path: Path) -> None:
    spoilt, _ = with_latents_of(jobs, tmp_path / "latents", slice(2, 3), math.inf)
    job = spoilt(tmp_path, **{**FULL, "save_every_steps": 5}, fused_backward=True, micro_batch_size=1, max_steps=5)
    assert run(job)
    saved = read_bundle(job.work / "bundles" / "step-00000005")
    assert saved.counters["skipped_in_all"] == 1
    assert all(bool(torch.isfinite(weight).all()) for weight in saved.weights.values())


@pytest.mark.ci
def test_a_gradient_that_is_not_finite_ends_a_fused_run_whose_bundles_are_sound(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(jobs(tmp_path, **FULL, fused_backward=True, max_steps=3))
    monkeypatch.setitem(OBJECTIVES, "diffusion", Exploding)
    job = jobs(tmp_path, **FULL, fused_backward=True)
    with pytest.raises(NonFiniteRunError, match=r"some weights have that step's update.*--override training\.fused_b"):
        run(job)
    assert bundle_steps(job) == [3]
    monkeypatch.undo()
    mended = jobs(tmp_path, **FULL).model_copy(update={"override": ("training.fused_backward",)})
    assert run(mended)


def test_a_fused_step_is_not_split(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "diffusion", SmallMemory)
    with pytest.raises(UserError, match=r"4 rows at once do not fit .* training\.fused_backward=false"):
        run(jobs(tmp_path, **FULL, fused_backward=True, micro_batch_size=4))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fused_backward": True, "adapter": LORA}, "expected adapter.kind = full"),
        ({"fused_backward": True, "accumulation_steps": 2}, "expected accumulation_steps = 1"),
        ({"fused_backward": True, "processes": 2}, "expected processes = 1"),
        ({"fused_backward": True, "precision": "fp16"}, "expected precision = bf16 or fp32"),
        ({"fused_backward": True, **SETTINGS["prodigy"]}, "prodigy needs all gradients at once"),
        ({"fused_backward": True, **SETTINGS["schedule_free"]}, "schedule_free needs all gradients at once"),
        ({"trained_weights": "bf16"}, "expected precision = bf16, got fp32"),
        ({**BF16, **SETTINGS["prodigy"]}, "prodigy needs all at once"),
        ({**BF16, **SETTINGS["schedule_free"]}, "schedule_free needs all at once"),
    ],
)
def test_what_saves_memory_is_refused_where_it_cannot(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainingConfig.model_validate({"adapter": {"kind": "full"}, **settings})


def test_parts_have_their_rates_in_the_run_and_in_its_curves(jobs: Jobs, tmp_path: Path) -> None:
    settings = {
        **PLAIN,
        "text_encoders": {"second": False},
        "learning_rates": {"text_encoder": 5e-4},
        "scale_lr": "linear",
        "lr_schedule": "linear",
        "micro_batch_size": 1,
        "accumulation_steps": 2,
    }
    job = assert_goes_on_exactly_with_length(jobs, tmp_path, **settings)
    rows = history(job)
    assert [row["learning_rate"] for row in rows] == pytest.approx([2e-3 * (1 - s / 6) for s in range(6)])
    assert [row["learning_rate/text_encoder"] for row in rows] == pytest.approx([1e-3 * (1 - s / 6) for s in range(6)])
    groups = last_bundle(job).optimizer["param_groups"]
    assert [group["part"] for group in groups] == ["unet", "text_encoder"]
    assert groups[1]["lr"] == pytest.approx(0.5 * groups[0]["lr"])


def assert_goes_on_exactly_with_length(jobs: Jobs, root: Path, **settings: Any) -> TrainJob:
    """As above for a schedule that depends on the length, so stopped by a bundle and not by its end."""
    straight, halves = (
        jobs(root / name, **settings).model_copy(update={"text": None} if "text_encoders" in settings else {})
        for name in ("straight", "halves")
    )
    assert run(straight)
    halves.work.mkdir(parents=True)
    (straight.work / "bundles" / "step-00000003").rename(halves.work / "step-00000003")
    (halves.work / "bundles").mkdir()
    (halves.work / "step-00000003").rename(halves.work / "bundles" / "step-00000003")
    assert run(halves)
    assert files(halves.out) == files(straight.out)
    return straight
