"""The validation loss: what it is, that it disturbs nothing, and that the best step is kept and exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from pydantic import ValidationError
from safetensors.torch import load_file

from sdxl_core import randomness
from sdxl_core.best import LOWEST_LOSS, Measured, measurements
from sdxl_core.bundle import read_bundle
from sdxl_core.errors import UserError
from sdxl_core.overrides import check_override, refuse_changes
from sdxl_core.run import Run, set_up
from sdxl_core.train_job import Ancestor, TrainJob
from sdxl_core.training_config import TimestepConfig, TrainingConfig, ValidationLossConfig
from sdxl_core.validation_loss import validation_timesteps
from tests.sdxl_core.jobs import LORA, Jobs, bundle_steps, files, history, run

LOSS: dict[str, Any] = {"every_steps": 1, "pictures": 2, "timesteps": [50, 700]}
ELSEWHERE: dict[str, Any] = {"every_steps": 1, "timesteps": [50, 700]}
RISING: dict[str, Any] = {"objective": {"kind": "diffusion"}, "adapter": LORA, "learning_rate": 0.03, "max_steps": 6}
"""On a checkpoint that has learned something it goes wrong soon, so that the last step is not the best."""
WEIGHTS = Path(__file__).parents[2] / "sdxl_core" / "miniature" / "weights" / "sdxl"


def with_loss(**loss: Any) -> dict[str, Any]:
    return {"loss": LOSS | loss}


def measured_elsewhere(job: TrainJob, inputs: dict[str, Path]) -> TrainJob:
    """The class pictures serve as a validation set of its own."""
    return job.model_copy(update={"validation_latents": inputs["class_latents"]})


def measure(setup: Run) -> dict[str, float]:
    assert setup.validation_loss is not None
    return {name: float(value) for name, value in setup.validation_loss.measure(setup.state).items()}


def losses(job: TrainJob) -> dict[int, float]:
    return {row["step"]: row["validation/loss"] for row in history(job) if "validation/loss" in row}


@pytest.fixture(scope="module")
def shipped(cached_inputs: dict[str, Path]) -> Jobs:
    """Jobs on the miniature's own weights."""
    return Jobs(WEIGHTS, cached_inputs)


@pytest.fixture(scope="module")
def rising(shipped: Jobs, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """A finished run whose best step is neither the last nor just before, of which only the newest bundle is kept."""
    settings = {**RISING, "validation": with_loss(), "export": "best", "keep_bundles": 1}
    job = shipped(tmp_path_factory.mktemp("rising"), **settings)
    assert run(job)
    return job


def test_it_is_the_mean_squared_error_that_diffusers_parts_give(
    jobs: Jobs, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Of the base, picture by picture and timestep by timestep, with the noise that the picture's digest gives."""
    settings = {"every_steps": 1, "draws": 2, "seed": 3, "timesteps": [50, 700]}
    job = measured_elsewhere(jobs(tmp_path, validation={"loss": settings}), cached_inputs)
    found = measure(set_up(job))
    unet = UNet2DConditionModel.from_pretrained(jobs.model / "unet")
    scheduler = DDPMScheduler.from_pretrained(jobs.model, subfolder="scheduler")
    factor = json.loads((jobs.model / "vae" / "config.json").read_text())["scaling_factor"]
    latents, text = load_file(job.validation_latents / "latents.safetensors"), load_file(job.text / "text.safetensors")
    index = [json.loads(line) for line in (job.validation_latents / "index.jsonl").read_text().splitlines()]
    captions = json.loads((job.text / "captions.json").read_text())["texts"]
    for t in (50, 700):
        errors = []
        for i, row in enumerate(index):
            x, at = latents["mean_NVCHW"][i, :1] * factor, captions.index(row["text"])
            added = {"text_embeds": text["pooled_UP"][at][None], "time_ids": latents["time_ids_NV6"][i, :1]}
            for draw in range(2):
                eps = randomness.normal(tuple(x.shape[1:]), "validation", 3, row["image_sha256"], t, draw)[None]
                noisy = scheduler.add_noise(x, eps, torch.tensor([t]))
                with torch.no_grad():
                    out = unet(noisy, t, text["text_USE"][at][None], added_cond_kwargs=added).sample
                errors.append(float((out - eps).square().mean()))
        assert found[f"validation/t{t:03d}"] == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert found["validation/loss"] == pytest.approx((found["validation/t050"] + found["validation/t700"]) / 2)


def test_it_depends_on_the_weights_alone(jobs: Jobs, tmp_path: Path) -> None:
    """Neither on the step, nor on what was drawn before, nor on the training's seed, noise and caption dropout."""
    plain = set_up(jobs(tmp_path / "a", validation=with_loss(), caption_dropout=0.0))
    found = measure(plain)
    plain.state.step = 77
    torch.rand(5)
    assert measure(plain) == found
    other = {"seed": 9, "noise": {"offset": 0.1, "perturbation": 0.1}, "caption_dropout": 1.0}
    assert measure(set_up(jobs(tmp_path / "b", validation=with_loss(), **other))) == found
    assert measure(set_up(jobs(tmp_path / "c", validation=with_loss(seed=1)))) != found


def test_how_many_rows_go_at_once_is_rounding(jobs: Jobs, tmp_path: Path) -> None:
    both = [measure(set_up(jobs(tmp_path, validation=with_loss(draws=3), micro_batch_size=n))) for n in (1, 4)]
    assert both[0] == pytest.approx(both[1], rel=1e-5)


def test_weighted_it_is_weighted_as_training_is(jobs: Jobs, tmp_path: Path) -> None:
    plain, weighted = (
        measure(set_up(jobs(tmp_path, weighting={"kind": "p2", "gamma": 1}, validation=with_loss(weighted=flag))))
        for flag in (False, True)
    )
    abar = DDPMScheduler.from_pretrained(jobs.model, subfolder="scheduler").alphas_cumprod
    for t in (50, 700):  # 1 / (1 + SNR) is 1 - abar
        expected = float(1 - abar[t]) * plain[f"validation/t{t:03d}"]
        assert weighted[f"validation/t{t:03d}"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measuring_does_not_disturb_training(
    jobs: Jobs, cached_inputs: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    """With dropout, EMA and class images: the same weights, moments, averages and other figures."""
    plain = jobs(tmp_path / "plain", precision=precision, max_steps=4)
    watched = jobs(tmp_path / "watched", precision=precision, max_steps=4, validation={"loss": ELSEWHERE})
    assert run(plain) and run(measured_elsewhere(watched, cached_inputs))
    ends = [read_bundle(job.work / "bundles" / "step-00000004") for job in (plain, watched)]
    for part in ("weights", "average"):
        ours, theirs = (getattr(end, part) for end in ends)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    shown = [row for row in history(watched) if row["step"]]
    kept = [{name: value for name, value in row.items() if not name.startswith("validation/")} for row in shown]
    assert kept == history(plain)


def test_the_average_is_measured_where_there_is_one(jobs: Jobs, tmp_path: Path) -> None:
    setup = set_up(jobs(tmp_path, validation=with_loss()))
    base = measure(setup)
    with torch.no_grad():
        for parameter in setup.state.parameters:
            parameter.add_(0.5)
    assert measure(setup) == base
    setup.state.ema.update(1)
    assert measure(setup)["validation/loss"] != base["validation/loss"]
    assert setup.state.denoiser.networks.unet.training is False  # as it was before


def test_history_has_the_base_and_every_measured_step(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, validation=with_loss(every_steps=2), max_steps=5)
    assert run(job)
    rows = history(job)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert rows[0].keys() == {"step", "validation/loss", "validation/t050", "validation/t700"}
    assert list(losses(job)) == [0, 2, 4]
    described = json.loads((job.out / "training.json").read_text())
    assert described["exported"] == {"step": 5, "why": "the last step"}
    facts = described["validation_loss"]
    assert facts["pictures"] == 2 and facts["timesteps"] == [50, 700] and facts["base"] == rows[0]["validation/loss"]


def test_held_out_pictures_are_not_trained_on(jobs: Jobs, tmp_path: Path) -> None:
    setup = set_up(jobs(tmp_path, validation=with_loss(), objective={"kind": "diffusion"}))
    assert setup.validation_loss is not None
    held_out = set(setup.validation_loss.images.sha256s)
    seen = {name for step in range(20) for name in setup.data.pictures(step, range(2))}
    assert len(held_out) == 2 and len(seen) == 3 and not held_out & seen


@pytest.mark.ci
def test_when_it_is_written_and_shown_changes_nothing(jobs: Jobs, tmp_path: Path) -> None:
    often = jobs(tmp_path / "often", validation=with_loss(every_steps=2), log_every_steps=1, save_every_steps=1)
    seldom = jobs(tmp_path / "seldom", validation=with_loss(every_steps=2), log_every_steps=50, save_every_steps=50)
    assert run(often) and run(seldom)
    assert files(often.out) == files(seldom.out)


def test_the_best_bundle_stays_and_is_what_is_exported(rising: TrainJob) -> None:
    best = min((loss, step) for step, loss in losses(rising).items() if step)[1]
    assert best < 5
    assert bundle_steps(rising) == [best, 6]
    described = json.loads((rising.out / "training.json").read_text())
    assert described["exported"]["step"] == best and "lowest validation loss" in described["exported"]["why"]
    assert described["validation_loss"]["best"] == {"step": best, "loss": losses(rising)[best]}
    held = read_bundle(rising.work / "bundles" / f"step-{best:08d}").average
    exported = load_file(rising.out / "pytorch_lora_weights.safetensors")
    assert exported and len(exported) == len(held)
    for name, tensor in held.items():
        assert torch.equal(tensor, exported[name.replace(".default", "")])


def test_a_finished_run_can_be_exported_otherwise_without_training(
    shipped: Jobs, rising: TrainJob, tmp_path: Path
) -> None:
    shutil.copytree(rising.work, tmp_path / "work")
    before = bundle_steps(rising)
    last = shipped(tmp_path, **RISING, validation=with_loss(), keep_bundles=1)
    assert run(last)
    assert bundle_steps(last) == before
    exported = [(job.out / "pytorch_lora_weights.safetensors").read_bytes() for job in (last, rising)]
    assert exported[0] != exported[1]
    assert (last.out / "history.jsonl").read_bytes() == (rising.out / "history.jsonl").read_bytes()


@pytest.mark.ci
def test_a_run_whose_best_bundle_is_lost_goes_back_to_one_that_is_whole(
    shipped: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**RISING, "validation": with_loss(), "export": "best", "save_every_steps": 1}
    job = shipped(tmp_path, **settings, keep_bundles=9)
    assert run(job)
    best = json.loads((job.out / "training.json").read_text())["exported"]["step"]
    left = files(job.out)
    shutil.rmtree(job.work / "bundles" / f"step-{best:08d}")
    shutil.rmtree(job.out)
    assert run(job)
    assert f"step-{best:08d}, the best of its steps, is not whole" in capsys.readouterr().out
    assert files(job.out) == left
    for step in range(1, best + 1):
        shutil.rmtree(job.work / "bundles" / f"step-{step:08d}", ignore_errors=True)
    with pytest.raises(UserError, match=r"none of \d bundles can be gone on from"):
        run(job)


def test_what_was_best_in_another_run_does_not_count(shipped: Jobs, rising: TrainJob, tmp_path: Path) -> None:
    given = Ancestor.of(rising.work / "bundles" / "step-00000006")
    settings = {**RISING, "validation": with_loss(), "export": "best", "max_steps": 8, "learning_rate": 1e-6}
    job = shipped(tmp_path, **settings).model_copy(update={"ancestor": given, "override": ("training.learning_rate",)})
    assert run(job)
    assert json.loads((job.out / "training.json").read_text())["exported"]["step"] in (7, 8)
    none = job.model_copy(update={"training": job.training.model_copy(update={"max_steps": 6})})
    with pytest.raises(UserError, match=r"every_steps: expected a multiple of it from 7 to training\.max_steps = 6"):
        run(none)


def test_the_first_of_equals_is_best_and_no_number_is_never() -> None:
    rows = [(0, 0.1), (1, 0.4), (2, None), (3, 0.3), (4, 0.3), (5, 0.5)]
    lines = "".join(json.dumps({"step": step, "validation/loss": loss}) + "\n" for step, loss in rows)
    lines += json.dumps({"step": 6, "loss": 0.01}) + "\n"
    assert measurements(lines, LOWEST_LOSS.figure)[:2] == [Measured(0, 0.1), Measured(1, 0.4)]
    assert LOWEST_LOSS.best_of(lines, 0) == Measured(3, 0.3)
    assert LOWEST_LOSS.best_of(lines, 4) == Measured(5, 0.5)
    assert LOWEST_LOSS.best_of(lines, 5) is None and LOWEST_LOSS.best_of("", 0) is None


def test_a_bundle_without_validation_has_no_best_to_lose(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, max_steps=2)
    assert run(job)
    assert LOWEST_LOSS.damage_or_lost_best(job.work / "bundles" / "step-00000002", 0) is None


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (TimestepConfig(), (62, 187, 312, 437, 562, 687, 812, 937)),
        (TimestepConfig(low=500, high=600), (506, 518, 531, 543, 556, 568, 581, 593)),
        (TimestepConfig(low=10, high=12), (10, 11)),
    ],
)
def test_timesteps_spread_over_those_that_are_trained(trained: TimestepConfig, expected: tuple[int, ...]) -> None:
    assert validation_timesteps(ValidationLossConfig(), trained, 1000) == expected


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"export": "best"}, r"export: best is the step of the lowest validation loss; add a section validation\.loss"),
    ({"export": "best", "validation": {"prompts": ["a"]}}, "add a section validation"),
    ({"export": "best", "validation": with_loss(every_steps=7)}, r"every_steps <= max_steps = 6"),
    ({"validation": {}}, "expected `prompts` to draw, or a section `loss`, or both; got neither"),
    ({"validation": with_loss(share=0.5)}, "share and pictures both say"),
    ({"validation": {"loss": {"share": 1.0}}}, "less than 1"),
    ({"validation": with_loss(timesteps=[5, 5])}, r"expected each timestep once, got \[5, 5\]"),
    ({"validation": with_loss(timesteps=[-1])}, "greater than or equal to 0"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate({"max_steps": 6, **settings})


CHANGED: list[tuple[dict[str, Any], str]] = [
    (with_loss(timesteps=[1000]), r"validation\.loss\.timesteps: expected below 1000, all there are, got 1000"),
    (with_loss(pictures=5), "left to train on"),
    ({"loss": ELSEWHERE}, "no pictures to measure on; set share or pictures"),
]


@pytest.mark.parametrize(("validation", "message"), CHANGED)
def test_what_the_data_does_not_allow_is_refused(
    jobs: Jobs, tmp_path: Path, validation: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        set_up(jobs(tmp_path, validation=validation))


def test_pictures_that_are_trained_on_too_are_refused(
    jobs: Jobs, cached_inputs: dict[str, Path], tmp_path: Path
) -> None:
    job = jobs(tmp_path, validation={"loss": ELSEWHERE})
    with pytest.raises(UserError, match=r"dataset\.validation_path: .* got 5 that dataset\.path holds too"):
        set_up(job.model_copy(update={"validation_latents": cached_inputs["latents"]}))


def changed(old: dict[str, Any], new: dict[str, Any]) -> Callable[[tuple[str, ...]], None]:
    before, after = ({"training": TrainingConfig(validation=each).lasting} for each in (old, new))
    return lambda override: refuse_changes(before, after, override, "the run")


def test_what_is_held_out_cannot_change_within_a_run_but_prompts_can() -> None:
    prompts = changed({"prompts": ["a"], **with_loss()}, {"prompts": ["b"], **with_loss()})
    prompts(("training.validation",))
    for loss in (with_loss(pictures=1), with_loss(timesteps=[5])):
        split = changed({"prompts": ["a"], **with_loss()}, {"prompts": ["a"], **loss})
        with pytest.raises(UserError, match=r"validation\.loss\.\w+ cannot change within a run"):
            split(("training.validation",))
    with pytest.raises(UserError, match="cannot change within a run"):
        check_override(("training.validation.loss",))
