"""Methods that learn from preferences: what they cost, their gradients, and the reference they are held against."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from sdxl_core.batch import Batch
from sdxl_core.objectives import LossOutput
from sdxl_core.peft_layers import adapted_layers
from sdxl_core.run import Run
from sdxl_core.training_config import TrainingConfig
from tests.sdxl_core.jobs import LORA, Jobs, run
from tests.sdxl_core.preferring import AGAINST_REFERENCE, KINDS, PAIR_KINDS, preferring, started
from tests.tiers import first_of

ADAPTERS: dict[str, dict[str, Any]] = {"lora": LORA, "full": {"kind": "full"}}
AT_FIRST = {"dpo": math.log(2), "dpo_hinge": 1.0, "ipo": 0.25, "kto": 0.5}
TIMESTEPS = 1000

# B pairs (of kto, rows); W is the preferred picture, L the rejected one


def move(there: Run, far: float = 0.01) -> None:
    """Away from where training began, reproducibly."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in there.state.parameters:
            parameter.add_(far * torch.randn(parameter.shape, generator=generator))


def asked(there: Run, step: int = 0) -> tuple[Batch, LossOutput]:
    batch = there.data.batch(step, range(2))
    return batch, there.objective(there.state.denoiser, batch)


@pytest.mark.ci
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", AGAINST_REFERENCE)
def test_before_the_first_step_nothing_is_preferred(jobs: Jobs, tmp_path: Path, kind: str, adapter: str) -> None:
    there = started(preferring(jobs, tmp_path, kind, adapter=ADAPTERS[adapter]))
    _, output = asked(there)
    assert float(output.loss.detach()) == pytest.approx(AT_FIRST[kind], abs=1e-6)
    assert float(output.scalars["implicit_accuracy"]) == 0.5
    assert output.rows is not None and output.rows.more["implicit_accuracy"].tolist() == [0.5, 0.5]


def squared_errors(predicted: Tensor, batch: Batch) -> Tensor:
    return functional.mse_loss(predicted, batch.eps_BCHW.to(predicted.dtype), reduction="none").mean([1, 2, 3])


def as_published(kind: str, model: Tensor, frozen: Tensor, batch: Batch) -> Tensor:
    """The loss as the methods' own scripts have it, of errors of the batch's rows: their constants, their signs.

    DiffusionDPO's train.py for dpo; diffusers' train_diffusion_dpo.py, which leaves out the half, for hinge and ipo;
    train_kto_sd_v1.5.py and mapo's utils.py for theirs.
    """
    (w, lost), (rw, rl) = model.chunk(2), frozen.chunk(2)
    if kind == "dpo":
        model_diff, ref_diff = w - lost, rw - rl
        return -functional.logsigmoid(-0.5 * 5000 * (model_diff - ref_diff)).mean()
    if kind == "dpo_hinge":
        return torch.relu(1 - 2500 * ((rw - rl) - (w - lost))).mean()
    if kind == "ipo":  # times beta squared
        return 2500**2 * (((rw - rl) - (w - lost)) - 1 / (2 * 2500)).square().mean()
    if kind == "mapo":
        odds = 0.5 * w / (torch.exp(0.5 * w) - 1) - 0.5 * lost / (torch.exp(0.5 * lost) - 1)
        return w.mean() - 0.1 * functional.logsigmoid(TIMESTEPS * odds).mean()
    g = frozen - model
    assert batch.liked_B is not None
    sign = torch.tensor([1.0 if liked else -1.0 for liked in batch.liked_B.tolist()], dtype=g.dtype)
    return (1 - torch.sigmoid(sign * 5000 * (g - max(0.0, float(g.detach().mean()))))).mean()


@pytest.mark.ci
@pytest.mark.parametrize("kind", [*PAIR_KINDS, "kto"])
def test_losses_are_those_of_the_published_scripts_on_the_same_tensors(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    there = started(preferring(jobs, tmp_path, kind))
    denoiser = there.state.denoiser
    with torch.no_grad():
        first = there.data.batch(3, range(2))
        frozen = squared_errors(denoiser.predict(first), first)
        move(there)
        batch, output = asked(there, step=3)
        moved = squared_errors(denoiser.predict(batch), batch)
        assert not torch.allclose(moved, frozen, rtol=1e-4), "the model has gone somewhere"
        expected = as_published(kind, moved, frozen, batch)
    assert float(output.loss) == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


def forward64(unet: torch.nn.Module, batch: Batch, there: Run) -> Tensor:
    """The network's prediction in float64, by diffusers alone."""
    noise = there.state.denoiser.schedule.alphas_cumprod_T.double()[batch.t_B].view(-1, 1, 1, 1)
    noisy = noise.sqrt() * batch.x_BCHW.double() + (1 - noise).sqrt() * batch.eps_BCHW.double()
    text: Any = batch.conditioning.text
    added = {"text_embeds": text.pooled_BP.double(), "time_ids": batch.conditioning.time_ids_B6.double()}
    predicted: Tensor = unet(noisy, batch.t_B, text.text_BSE.double(), added_cond_kwargs=added).sample
    return predicted


@pytest.mark.parametrize("kind", [*PAIR_KINDS, "kto"])
def test_gradients_equal_an_independent_float64_computation(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    """Two whole networks in float64, of which one learns, and the published loss; ours has one, and float32."""
    there = started(preferring(jobs, tmp_path, kind, adapter={"kind": "full"}))
    frozen = copy.deepcopy(there.state.denoiser.networks.unet).double()
    move(there, far=1e-4)
    learning = copy.deepcopy(there.state.denoiser.networks.unet).double()
    batch, output = asked(there)
    output.loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        reference = squared_errors(forward64(frozen, batch, there), batch)
    model = squared_errors(forward64(learning, batch, there), batch)
    as_published(kind, model, reference, batch).backward()  # type: ignore[no-untyped-call]
    ours = torch.cat([p.grad.flatten().double() for p in there.state.parameters if p.grad is not None])
    theirs = torch.cat([p.grad.flatten() for p in learning.parameters() if p.grad is not None])
    assert float(theirs.norm()) > 0
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-3


@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_the_anchor_adds_the_preferred_pictures_own_loss(jobs: Jobs, tmp_path: Path, weight: float) -> None:
    there = started(preferring(jobs, tmp_path, "dpo", objective={"sft_weight": weight}))
    batch, output = asked(there)
    own = squared_errors(there.state.denoiser.predict(batch), batch).chunk(2)[0].mean()
    assert float(output.loss.detach()) == pytest.approx(math.log(2) + weight * float(own), rel=1e-4)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_reference_stays_where_training_began(jobs: Jobs, tmp_path: Path, adapter: str) -> None:
    there = started(preferring(jobs, tmp_path, "dpo", adapter=ADAPTERS[adapter]))
    batch = there.data.batch(0, range(2))
    began = there.state.denoiser.predict(batch).detach()
    move(there, far=0.05)
    assert torch.allclose(there.state.denoiser.predict_base(batch), began, atol=1e-5)
    assert not torch.allclose(there.state.denoiser.predict(batch), began, atol=1e-3)
    assert all(parameter.requires_grad for parameter in there.state.parameters)


@pytest.mark.ci
@pytest.mark.parametrize("adapter", [LORA, {"kind": "lokr", "rank": 2}, {"kind": "full"}])
def test_what_another_training_left_is_in_the_reference(jobs: Jobs, tmp_path: Path, adapter: dict[str, Any]) -> None:
    """SFT first, then DPO: the loss begins at log 2, and the reference predicts what the SFT does, not the base."""
    first = preferring(jobs, tmp_path / "sft", "sft", adapter=adapter, learning_rate=1e-2, max_steps=2)
    assert run(first)
    base = started(preferring(jobs, tmp_path / "base", "dpo"))
    there = started(preferring(jobs, tmp_path / "dpo", "dpo", adapter={**adapter, "start_from": str(first.out)}))
    batch, output = asked(there)
    assert float(output.loss.detach()) == pytest.approx(math.log(2), abs=1e-4)
    began = there.state.denoiser.predict(batch).detach()
    assert not torch.allclose(began, base.state.denoiser.predict(batch), atol=1e-3)
    move(there, far=0.05)
    assert torch.allclose(there.state.denoiser.predict_base(batch), began, atol=1e-5)
    assert not torch.allclose(there.state.denoiser.predict(batch), began, atol=1e-3)
    if adapter["kind"] != "full":
        layers = adapted_layers(there.state.denoiser.networks.unet).values()
        assert all([*layer.r] == ["default"] for layer in layers), "never a second adapter"


def test_an_offloaded_reference_is_the_same(jobs: Jobs, tmp_path: Path) -> None:
    losses = []
    for offload in (False, True):
        there = started(
            preferring(jobs, tmp_path / f"{offload}", "dpo", adapter={"kind": "full"}, offload_base=offload)
        )
        move(there)
        losses.append(float(asked(there)[1].loss.detach()))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", first_of(KINDS))
def test_following_the_gradient_prefers_what_is_preferred(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    """On one batch: its loss falls, and what is preferred (of sft: learned) is predicted better than before."""
    weak = {"beta": 50} if kind in AGAINST_REFERENCE else {}  # random weights change much in a step
    there = started(preferring(jobs, tmp_path, kind, objective=weak))
    optimizer = torch.optim.Adam(there.state.parameters, lr=1e-3)
    batch, first = asked(there)
    for _ in range(15):
        optimizer.zero_grad()
        there.objective(there.state.denoiser, batch).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    last = there.objective(there.state.denoiser, batch)
    assert float(last.loss.detach()) < float(first.loss.detach())
    if kind in AGAINST_REFERENCE:
        assert float(last.scalars["implicit_accuracy"]) > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": {"kind": "dpo"}, "masked_loss": {}}, "masked_loss has no meaning for preferences"),
        ({"objective": {"kind": "sft"}, "concepts": {"a": {}}}, "concepts has no meaning for preferences"),
        ({"objective": {"kind": "kto"}}, "micro_batch_size of 2 at least"),
        ({"objective": {"kind": "dpo"}, "new_tokens": [{"token": "<x>"}]}, "does not know them"),
        ({"objective": {"kind": "dpo", "beta": 0}}, "greater than 0"),
        ({"export": "best", "best_by": "implicit_accuracy", "validation": {"loss": {"share": 0.1}}}, "no preferences"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate(settings)


def test_in_half_precision_a_whole_copy_predicts_what_training_begins_with(jobs: Jobs, tmp_path: Path) -> None:
    """Bit for bit, as beta multiplies what differs by thousands; with norms that bfloat16 does not hold."""
    there = started(preferring(jobs, tmp_path, "dpo", adapter={"kind": "full"}, precision="bf16"))
    unet, denoiser = there.state.denoiser.networks.unet, there.state.denoiser
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1 + 0.01 * torch.rand(parameter.shape, generator=generator))
    denoiser.base = there.trained.adapter.reference(denoiser.networks, torch.bfloat16)
    batch, output = asked(there)
    assert torch.equal(denoiser.predict_base(batch), denoiser.predict(batch).detach())
    assert float(output.loss.detach()) == pytest.approx(math.log(2), abs=1e-7)
