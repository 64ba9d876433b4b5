"""Another noise schedule than the checkpoint's: what is trained on is what is drawn with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline

from sdxl_core.adapters import Addition, load_trained
from sdxl_core.config import SamplingConfig
from sdxl_core.errors import UserError
from sdxl_core.model import load_pipeline
from sdxl_core.sampling import Request, sample
from sdxl_core.scheduler import SCHEDULERS, load_noise_schedule
from sdxl_core.training_config import ScheduleConfig, TrainingConfig
from tests.sdxl_core.jobs import Jobs, history, run

VELOCITY = ScheduleConfig(prediction_type="v_prediction")
ZERO = ScheduleConfig(prediction_type="v_prediction", zero_terminal_snr=True)


def test_zero_terminal_snr_is_algorithm_1_of_lin_et_al(random_sdxl: Path) -> None:
    """sqrt(abar) shifted so that its last is 0, and scaled so that its first stays (arXiv:2305.08891)."""
    own, zero = load_noise_schedule(random_sdxl), load_noise_schedule(random_sdxl, ZERO)
    root = own.alphas_cumprod_T.double().sqrt()
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    assert torch.allclose(zero.alphas_cumprod_T.double(), expected, atol=1e-5)
    assert float(zero.alphas_cumprod_T[-1]) == 0.0 and zero.alphas_cumprod_T[0] == own.alphas_cumprod_T[0]
    assert zero.snr(torch.tensor([999])) == 0.0


def test_velocity_is_diffusers_own(random_sdxl: Path) -> None:
    schedule, scheduler = (
        load_noise_schedule(random_sdxl, VELOCITY),
        DDPMScheduler.from_pretrained(random_sdxl, subfolder="scheduler"),
    )
    x, eps, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 500, 999])
    assert torch.allclose(schedule.target(x, eps, t), scheduler.get_velocity(x, eps, t), atol=1e-5)
    assert torch.allclose(schedule.add_noise(x, eps, t), scheduler.add_noise(x, eps, t), atol=1e-5)


def test_an_unchanged_schedule_leaves_no_file(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, max_steps=1)
    assert run(job) and not (job.out / "scheduler").exists()


@pytest.mark.ci
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_what_was_trained_is_drawn_with_its_schedule(jobs: Jobs, tmp_path: Path, sampler: str) -> None:
    """By every sampler, from noise alone: finite pictures, from the schedule in the export."""
    sampling = SamplingConfig(steps=3, width_px=64, height_px=64, scheduler=sampler, guidance_rescale=0.7)  # type: ignore[arg-type]
    job = jobs(
        tmp_path,
        max_steps=2,
        schedule=ZERO.model_dump(),
        validation={"every_steps": 2, "prompts": ["a photo of a person"]},
    ).model_copy(update={"sampling": sampling})
    assert run(job)
    assert all(row["loss"] is not None for row in history(job))
    stored = json.loads((job.out / "scheduler" / "scheduler_config.json").read_text())
    assert stored["prediction_type"] == "v_prediction" and stored["rescale_betas_zero_snr"] is True
    pipeline = load_pipeline(jobs.model, None, sampling, torch.device("cpu"))
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    load_trained(pipeline, Addition(job.out))
    assert isinstance(pipeline.scheduler, SCHEDULERS[sampler])
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    pipeline.scheduler.set_timesteps(3)
    assert int(pipeline.scheduler.timesteps[0]) == 999
    picture = sample(pipeline, [Request("a photo of a person", 1)], sampling)[0]
    assert len(set(picture.getdata())) > 10, "not one colour, as not-a-numbers would give"


def test_noise_alone_cannot_be_told_by_its_noise(random_sdxl: Path) -> None:
    with pytest.raises(ValueError, match="needs prediction_type: v_prediction"):
        ScheduleConfig(prediction_type="epsilon", zero_terminal_snr=True)
    with pytest.raises(UserError, match=r"the checkpoint's own\. Set training\.schedule\.prediction_type"):
        load_noise_schedule(random_sdxl, ScheduleConfig(zero_terminal_snr=True))


@pytest.mark.parametrize("kind", ["uniform", "min_snr", "soft_min_snr", "debiased", "p2"])
def test_every_weighting_is_finite_where_there_is_noise_alone(random_sdxl: Path, kind: str) -> None:
    from sdxl_core.weighting import timestep_weight

    config = TrainingConfig.model_validate({"weighting": {"kind": kind}}).weighting
    snr = load_noise_schedule(random_sdxl, ZERO).snr(torch.tensor([0, 998, 999]))
    assert timestep_weight(snr, "v_prediction", config).isfinite().all()


def test_plain_diffusers_reads_the_exported_schedule(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs(tmp_path, max_steps=1, schedule=ZERO.model_dump())
    assert run(job)
    pipeline = StableDiffusionXLPipeline.from_pretrained(jobs.model)
    pipeline.scheduler = type(pipeline.scheduler).from_pretrained(job.out / "scheduler")
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
