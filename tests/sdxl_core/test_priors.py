"""Preservation of what the base knows: by class images, and by the base's own prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdxl_core.bundle import read_bundle
from sdxl_core.run import Run, set_up
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import PriorPreservationObjective
from tests.sdxl_core.jobs import LORA, Jobs, run

CLASS_PROMPT = "a photo of a person"
FROM_BASE: dict[str, dict[str, Any]] = {
    "class images": {"kind": "prior_preservation", "target": "base"},
    "class prompt": {"kind": "prior_prediction", "class_prompt": CLASS_PROMPT},
}
ADAPTERS = {"lora": LORA, "full": {"kind": "full"}}


def started(job: TrainJob) -> Run:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return set_up(job)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("objective", FROM_BASE)
def test_the_base_agrees_with_itself(jobs: Jobs, tmp_path: Path, objective: str, adapter: str) -> None:
    """Before the first step nothing differs from the base, so the prior's loss is zero; after it, it is not."""
    settings = {"objective": FROM_BASE[objective], "adapter": ADAPTERS[adapter], "ema": None}
    there = started(jobs(tmp_path, **settings, learning_rate=1e-3))
    batch = there.data.batch(0, range(2))
    first = there.objective(there.state.denoiser, batch)
    assert float(first.scalars["unweighted/prior"]) < 1e-10  # of rounding: the batch is another
    with torch.no_grad():
        for parameter in there.state.parameters:
            parameter.add_(0.05)
    moved = there.objective(there.state.denoiser, batch)
    assert float(moved.scalars["unweighted/prior"]) > 1e-6


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_prior_s_target_is_what_a_fresh_base_predicts(jobs: Jobs, tmp_path: Path, adapter: str) -> None:
    """However far training has gone, the second half of a batch is held against the checkpoint's own UNet."""
    settings = {"objective": FROM_BASE["class prompt"], "adapter": ADAPTERS[adapter], "ema": None}
    fresh = started(jobs(tmp_path, **settings))
    batch = fresh.data.batch(0, range(2)).rows(slice(2, None))
    with torch.no_grad():
        expected = fresh.state.denoiser.predict(batch)
        for parameter in fresh.state.parameters:
            parameter.add_(0.05)
        assert torch.allclose(fresh.state.denoiser.predict_base(batch), expected, atol=1e-5)
        assert not torch.allclose(fresh.state.denoiser.predict(batch), expected, atol=1e-3)
    assert all(parameter.requires_grad for parameter in fresh.state.parameters), "and training goes on"


def test_class_rows_are_the_instance_rows_called_by_class(jobs: Jobs, tmp_path: Path) -> None:
    there = started(jobs(tmp_path, objective=FROM_BASE["class prompt"]))
    batch = there.data.batch(3, range(2))
    instance, classes = batch.rows(slice(None, 2)), batch.rows(slice(2, None))
    for name in ("x_BCHW", "eps_BCHW", "t_B"):
        assert torch.equal(getattr(instance, name), getattr(classes, name))
    text = there.data.text.pick(torch.tensor(there.data.text.rows[CLASS_PROMPT] * 2))
    assert torch.equal(classes.conditioning.text.text_BSE, text.text_BSE)  # type: ignore[union-attr]


def test_live_text_encoders_are_the_base_s_too(jobs: Jobs, tmp_path: Path) -> None:
    """With text encoders trained, the base's prediction is made with the base's text encoders."""
    settings = {"objective": FROM_BASE["class prompt"], "text_encoders": {}, "ema": None, "adapter": LORA}
    there = started(jobs(tmp_path, **settings).model_copy(update={"text": None}))
    batch = there.data.batch(0, range(1)).rows(slice(1, None))
    with torch.no_grad():
        expected = there.state.denoiser.predict(batch)
        for name, parameter in there.state.trainable.items():
            if name.startswith("text_encoder"):
                parameter.add_(0.05)
        assert torch.allclose(there.state.denoiser.predict_base(batch), expected, atol=1e-5)
        assert not torch.allclose(there.state.denoiser.predict(batch), expected, atol=1e-4)


def test_every_row_of_both_halves_has_its_own_timestep_s_weight(jobs: Jobs, tmp_path: Path) -> None:
    """diffusers' script weighs the class rows by the instance rows' timesteps, or fails."""
    from sdxl_core.objectives.prior_preservation import PriorPreservation

    there = started(jobs(tmp_path))
    batch, denoiser = there.data.batch(0, range(2)), there.state.denoiser
    output = PriorPreservation(PriorPreservationObjective(kind="prior_preservation", prior_weight=0.5))(denoiser, batch)
    rows = []
    for i in range(4):
        alone = batch.rows(slice(i, i + 1))
        abar = denoiser.schedule.alphas_cumprod_T[alone.t_B]
        snr = abar / (1 - abar)
        error = (denoiser.predict(alone) - alone.eps_BCHW).square().mean()
        rows.append(float(snr.clamp(max=5) / snr * error))
    expected = (rows[0] + rows[1]) / 2 + 0.5 * (rows[2] + rows[3]) / 2
    assert float(output.loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize("objective", FROM_BASE)
def test_the_prior_holds_the_class_in_its_place(jobs: Jobs, tmp_path: Path, objective: str) -> None:
    """With it, the trained network stays nearer to the base on class rows than without it."""

    def drift(root: Path, weight: float) -> float:
        settings = {**FROM_BASE[objective], "prior_weight": weight}
        job = jobs(
            root, objective=settings, adapter=LORA, ema=None, max_steps=12, learning_rate=5e-3, save_every_steps=12
        )
        assert run(job)
        there = started(job)
        there.restore(read_bundle(job.work / "bundles" / "step-00000012"))
        batch = there.data.batch(100, range(4)).rows(slice(4, None))
        with torch.no_grad():
            return float(
                (there.state.denoiser.predict(batch) - there.state.denoiser.predict_base(batch)).square().mean()
            )

    assert drift(tmp_path / "held", 10.0) < 0.8 * drift(tmp_path / "free", 0.0)
