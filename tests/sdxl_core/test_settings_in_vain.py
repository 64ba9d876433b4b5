"""Settings that would change nothing, or make the result another than its words say, are refused with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from pydantic import ValidationError

from sdxl_core.config import Config, DatasetConfig, ModelConfig, SamplingConfig
from sdxl_core.errors import UserError
from sdxl_core.run import set_up
from sdxl_core.training_config import TrainingConfig
from tests.sdxl_core.jobs import LORA, Jobs

VELOCITY = {"prediction_type": "v_prediction"}
IN_VAIN: tuple[tuple[dict[str, Any], str], ...] = (
    ({"timesteps": {"mean": 0.5}}, "mean = 0.5 has no effect without distribution: logit_normal"),
    ({"timesteps": {"deviation": 2, "distribution": "cubic"}}, "deviation = 2.0 has no effect"),
    ({"noise": {"multires_discount": 0.5}}, "multires_discount = 0.5 has no effect without multires_levels"),
    ({"loss": {"threshold": 0.2}}, "threshold = 0.2 has no effect without kind: huber or smooth_l1"),
    ({"loss": {"kind": "l1", "schedule": "constant"}}, "schedule = constant has no effect"),
    ({"ema": {"power": 0.75}}, "power = 0.75 has no effect without warmup: power"),
    ({"ema": {"update_every_steps": 10}, "max_steps": 9}, "would be the untrained weights.*training.ema=null"),
    ({"ema": {"update_after_step": 8}, "max_steps": 9}, "nothing would ever be averaged.*training.ema=null"),
    ({"masked_loss": {"unmasked_weight": 1}}, "as if there were no masks"),
    ({"caption_dropout": 1, "text_encoders": {}}, "caption_dropout = 1 leaves no caption"),
    ({"caption_dropout": 1, "new_tokens": [{"token": "<a>"}]}, "caption_dropout = 1 leaves no caption"),
    ({"lr_schedule": "cosine", "warmup_steps": 9, "max_steps": 9}, "cosine would never begin.*got 9"),
    ({"learning_rates": {"text_encoder": 1e-5}}, r"learning_rates.text_encoder: .*trained \(unet\)"),
    (
        {"text_encoders": {"second": False}, "learning_rates": {"text_encoder_2": 1e-5}},
        r"learning_rates.text_encoder_2: .*trained \(unet, text_encoder\)",
    ),
    (
        {"adapter": {"kind": "none"}, "new_tokens": [{"token": "<a>"}], "learning_rates": {"text_encoder": 1e-5}},
        r"learning_rates.text_encoder: .*trained \(tokens\)",
    ),
    ({"adapter": {"init": "kaiming", "start_from": "/x"}}, "init = kaiming has no effect with start_from"),
)
WITH_AN_EFFECT: tuple[dict[str, Any], ...] = (
    {"timesteps": {"mean": 0.5, "deviation": 2, "distribution": "logit_normal"}},
    {"noise": {"multires_discount": 0.5, "multires_levels": 3}},
    {"loss": {"kind": "huber", "threshold": 0.2, "schedule": "constant"}},
    {"ema": {"warmup": "power", "power": 0.75, "update_every_steps": 10, "update_after_step": 8}, "max_steps": 10},
    {"masked_loss": {"unmasked_weight": 1, "prior_weight": 0.1}},
    {"caption_dropout": 1},
    {"lr_schedule": "cosine", "warmup_steps": 9, "max_steps": 10},
    {"lr_schedule": "constant", "warmup_steps": 9, "max_steps": 5},
    {"text_encoders": {}, "new_tokens": [{"token": "<a>"}], "learning_rates": {"text_encoder": 1e-5, "tokens": 1e-3}},
)


@pytest.mark.parametrize(("settings", "said"), IN_VAIN)
def test_what_would_have_no_effect_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainingConfig.model_validate(settings)


@pytest.mark.parametrize("settings", WITH_AN_EFFECT)
def test_the_same_settings_pass_where_they_have_one(settings: dict[str, Any]) -> None:
    """And so does the whole configuration as it is written into a job, with its defaults spelt out."""
    config = TrainingConfig.model_validate(settings)
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("section", "settings", "said"),
    [
        (SamplingConfig, {"guidance_scale": 1, "negative_prompt": "blurry"}, "no effect without guidance.*got 1"),
        (SamplingConfig, {"guidance_scale": 0, "guidance_rescale": 0.7}, "no effect without guidance.*got 0"),
        (ModelConfig, {"base": "a/b", "vae_revision": "1"}, "vae_revision has no effect without vae"),
        (DatasetConfig, {"path": "/x", "revision": "1"}, "of source: hub, got source: imagefolder"),
        (DatasetConfig, {"path": "/x", "source": "parquet", "split": "test"}, "of source: hub, got source: parquet"),
    ],
)
def test_other_sections_too(section: type[Config], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        section.model_validate(settings)


FITS_NO_CHECKPOINT: tuple[tuple[dict[str, Any], str], ...] = (
    ({"timesteps": {"high": 1001}}, r"training\.timesteps\.high: expected below 1000"),
    (
        {"timesteps": {"high": 900}, "schedule": {**VELOCITY, "zero_terminal_snr": True}},
        r"training\.timesteps\.high: expected 1000 with schedule\.zero_terminal_snr.*got 900\. Leave it out",
    ),
    (
        {"objective": {"kind": "prior_preservation", "target": "base"}, "schedule": VELOCITY},
        r"schedule\.prediction_type: expected epsilon, the checkpoint's own.*got v_prediction\. Take objective",
    ),
    ({"objective": {"kind": "prior_prediction", "class_prompt": "x"}, "schedule": VELOCITY}, "expected epsilon"),
)


@pytest.mark.parametrize(("settings", "said"), FITS_NO_CHECKPOINT)
def test_what_does_not_fit_the_checkpoint_s_schedule_is_refused(
    jobs: Jobs, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    """The base's noise is no target for a network that learns to predict the velocity."""
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps one precision per process
    with pytest.raises(UserError, match=said):
        set_up(jobs(tmp_path, **settings, adapter=LORA))
