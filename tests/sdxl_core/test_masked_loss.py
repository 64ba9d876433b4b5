"""Masked loss and rows' weights against closed forms, on the real network where gradients matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdxl_core.adapters import ADAPTERS
from sdxl_core.batch import Batch, Conditioning, EncodedText
from sdxl_core.denoiser import Denoiser
from sdxl_core.masking import inside_weight, outside_weight
from sdxl_core.model import load_unet
from sdxl_core.networks import Networks
from sdxl_core.objectives import OBJECTIVES
from sdxl_core.scheduler import load_noise_schedule
from sdxl_core.training_config import MaskedLossConfig, TrainingConfig
from tests.sdxl_core.test_weighting_and_loss import Fixed, schedule

LOSSES: list[dict[str, Any]] = [{"kind": "l2"}, {"kind": "l1"}, {"kind": "huber"}, {"kind": "smooth_l1"}]


def batch(mask_B1HW: Tensor | None, seed: int = 1, weight_B: Tensor | None = None) -> Batch:
    x, eps = torch.randn((2, 2, 4, 8, 8), generator=torch.Generator().manual_seed(seed))
    text = EncodedText(torch.randn(2, 5, 128), torch.randn(2, 64))
    conditioning = Conditioning(text, torch.full((2,), 5), torch.zeros(2, 6))
    return Batch(x, conditioning, eps, eps, torch.tensor([100, 900]), weight_B, mask_B1HW)


def error(given: Batch, prediction_BCHW: Tensor, **masked: Any) -> Tensor:
    loss = masked.pop("loss", {"kind": "l2"})
    config = TrainingConfig.model_validate({"masked_loss": masked or None, "loss": loss})
    return Denoiser(Networks(Fixed(prediction_BCHW)), schedule()[0], config).error(given)


def half() -> Tensor:
    """The left half of each row."""
    mask_B1HW = torch.zeros(2, 1, 8, 8)
    mask_B1HW[..., :4] = 1
    return mask_B1HW


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("masked", [{"unmasked_weight": 0.0}, {"unmasked_weight": 0.3}, {"normalize": True}])
def test_a_mask_of_ones_is_the_plain_loss(loss: dict[str, Any], masked: dict[str, Any]) -> None:
    prediction = torch.randn(2, 4, 8, 8)
    plain = error(batch(None), prediction, loss=loss)
    assert torch.equal(error(batch(torch.ones(2, 1, 8, 8)), prediction, **masked, loss=loss), plain)
    assert torch.equal(error(batch(half()), prediction, loss=loss), plain), "without masked_loss, masks do nothing"


@pytest.mark.parametrize("loss", LOSSES)
def test_half_a_mask_worked_out_by_hand(loss: dict[str, Any]) -> None:
    """The plain losses of both halves, as if each were the picture."""
    given, prediction = batch(half()), torch.randn(2, 4, 8, 8)

    def part(columns: slice) -> Tensor:
        parts = {name: getattr(given, name)[..., columns] for name in ("x_BCHW", "eps_BCHW", "input_eps_BCHW")}
        return error(replace(given, **parts, mask_B1HW=None), prediction[..., columns], loss=loss)

    left, right = part(slice(0, 4)), part(slice(4, 8))
    for masked, expected in (
        ({"unmasked_weight": 0.0}, left / 2),
        ({"unmasked_weight": 0.5}, left / 2 + right / 4),
        ({"unmasked_weight": 0.75}, left / 2 + right * 0.375),
        ({"normalize": True, "unmasked_weight": 0.0}, left),
        ({"normalize": True, "unmasked_weight": 0.5}, (left + right / 2) / 1.5),
    ):
        assert torch.allclose(error(given, prediction, **masked, loss=loss), expected, rtol=1e-5), masked


def test_weights_of_a_soft_mask() -> None:
    mask = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    config = MaskedLossConfig(unmasked_weight=0.2, prior_weight=2)
    assert inside_weight(mask, config).flatten().tolist() == pytest.approx([0.2, 0.6, 1.0])
    assert outside_weight(mask, config).flatten().tolist() == pytest.approx([2.0, 1.0, 0.0])
    normal = config.model_copy(update={"normalize": True})
    assert inside_weight(mask, normal).mean() == pytest.approx(1) and outside_weight(mask, normal).mean() == 2
    for nothing, weight in ((torch.zeros(1, 1, 2, 2), inside_weight), (torch.ones(1, 1, 2, 2), outside_weight)):
        found = weight(nothing, normal.model_copy(update={"unmasked_weight": 0.0}))
        assert torch.equal(found, torch.zeros(1, 1, 2, 2)), "a crop beside the mask teaches nothing, and no NaN"


def test_outside_the_mask_the_gradient_is_exactly_zero() -> None:
    prediction = torch.randn(2, 4, 8, 8, requires_grad=True)
    error(batch(half()), prediction, unmasked_weight=0.0).sum().backward()
    assert prediction.grad is not None
    assert bool((prediction.grad[..., 4:] == 0).all()) and bool((prediction.grad[..., :4] != 0).all())


def test_rows_weigh_what_their_concepts_say_in_every_objective() -> None:
    """Diffusion and prior preservation, where it is the instance rows' own weight."""
    prediction, weight_B = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 0.5])
    denoiser = Denoiser(Networks(Fixed(prediction)), schedule()[0], TrainingConfig())
    error_B = denoiser.error(batch(None))
    given = batch(None, weight_B=weight_B)
    expected = {"diffusion": (3 * error_B[0] + 0.5 * error_B[1]) / 2, "prior_preservation": 3 * error_B[0] + error_B[1]}
    for kind, loss in expected.items():
        config = TrainingConfig.model_validate({"objective": {"kind": kind, **PRIOR.get(kind, {})}}).objective
        found = OBJECTIVES[kind](config)(denoiser, given)
        assert found.loss == pytest.approx(float(loss), rel=1e-6)
        assert found.scalars["unweighted"] == pytest.approx(float(error_B[: 1 if kind != "diffusion" else 2].mean()))


PRIOR = {"prior_preservation": {"prior_weight": 2.0}}


# --- the base's own prediction ---


@pytest.fixture
def adapted(random_sdxl: Path) -> tuple[Denoiser, dict[str, torch.nn.Parameter], Batch, Tensor]:
    """A LoRA that moves the prediction, and what the base predicted before it was there."""
    unet, masked = load_unet(random_sdxl), {"unmasked_weight": 0.0, "prior_weight": 1.0}
    config = TrainingConfig.model_validate({"adapter": {"kind": "lora", "rank": 2}, "masked_loss": masked})
    networks, given = Networks(unet), batch(half())
    denoiser = Denoiser(networks, load_noise_schedule(random_sdxl), config)
    width = unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    text = EncodedText(torch.randn(2, 5, width), torch.randn(2, pooled))
    condition = Conditioning(text, torch.full((2,), 5), torch.full((2, 6), 64.0))
    given = replace(given, conditioning=condition)
    with torch.no_grad():
        base = denoiser.predict(given)
    adapter = ADAPTERS["lora"](config.adapter)
    trained = adapter.attach("unet", unet, seed=0)
    denoiser.base = adapter.base(networks, torch.float32)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_(std=0.3)
    return denoiser, trained, given, base


def test_the_bases_prediction_is_that_without_the_adapter_and_leaves_it_on(
    adapted: tuple[Denoiser, dict[str, torch.nn.Parameter], Batch, Tensor],
) -> None:
    denoiser, trained, given, base = adapted
    with torch.no_grad():
        before = denoiser.predict(given)
        found = denoiser.predict_base(given)
        after = denoiser.predict(given)
    assert torch.equal(found, base) and torch.equal(before, after)
    assert not torch.allclose(found, after, atol=1e-3)
    assert not denoiser.predict_base(given).requires_grad
    assert all(parameter.requires_grad for parameter in trained.values())


def test_outside_the_mask_the_base_is_the_target(
    adapted: tuple[Denoiser, dict[str, torch.nn.Parameter], Batch, Tensor],
) -> None:
    """Mean of (prediction - eps)^2 inside and of (prediction - base)^2 outside; the gradient reaches the LoRA."""
    denoiser, trained, given, base = adapted
    found = denoiser.error(given)
    with torch.no_grad():
        prediction = denoiser.predict(given)
        inside = (prediction - given.eps_BCHW)[..., :4].square().mean(dim=(1, 2, 3))
        outside = (prediction - base)[..., 4:].square().mean(dim=(1, 2, 3))
    assert torch.allclose(found, (inside + outside) / 2, rtol=1e-5)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained.values())
