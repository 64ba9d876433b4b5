"""Weightings, losses, noise and timesteps against closed forms worked out apart from the code."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from diffusers import DDPMScheduler
from pydantic import TypeAdapter, ValidationError

from sdxl_core.batch import Batch, Conditioning, EncodedText
from sdxl_core.denoiser import Denoiser
from sdxl_core.losses import LOSSES, row_error, threshold
from sdxl_core.networks import Networks
from sdxl_core.noise import draw_noise, draw_timestep
from sdxl_core.schedule import NoiseSchedule
from sdxl_core.training_config import LossConfig, NoiseConfig, TimestepConfig, TrainingConfig, Weighting
from sdxl_core.weighting import WEIGHTINGS, timestep_weight

SNR = torch.tensor([0.01, 1.0, 5.0, 100.0, 4000.0])
EXPECTED: dict[str, tuple[dict[str, float], list[float]]] = {
    "min_snr": ({"gamma": 5}, [1, 1, 1, 0.05, 5 / 4000]),
    "soft_min_snr": ({"gamma": 5}, [5 / 5.01, 5 / 6, 0.5, 5 / 105, 5 / 4005]),
    "debiased": ({}, [10, 1, 1 / math.sqrt(5), 0.1, 1 / math.sqrt(1000)]),
    "p2": ({"gamma": 2, "k": 1}, [1 / 1.01**2, 1 / 4, 1 / 36, 1 / 101**2, 1 / 4001**2]),
}


def weighting(kind: str, **settings: float) -> Weighting:
    return TypeAdapter(Weighting).validate_python({"kind": kind, **settings})


def schedule(prediction_type: str = "epsilon") -> tuple[NoiseSchedule, DDPMScheduler]:
    theirs = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )
    return NoiseSchedule(theirs.alphas_cumprod, prediction_type), theirs


def test_every_weighting_is_registered_and_checked_here() -> None:
    kinds = {get_args(each.model_fields["kind"].annotation)[0] for each in get_args(get_args(Weighting)[0])}
    assert kinds == {*WEIGHTINGS, "uniform"} == {*EXPECTED, "uniform"}


@pytest.mark.parametrize("kind", EXPECTED)
def test_weights_of_the_noises_error(kind: str) -> None:
    settings, expected = EXPECTED[kind]
    assert timestep_weight(SNR, "epsilon", weighting(kind, **settings)).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", EXPECTED)
def test_velocity_and_epsilon_weights_mean_the_same_loss(kind: str) -> None:
    """An error d in x_0 is d sqrt(SNR) in eps and d sqrt(SNR + 1) in v."""
    config = weighting(kind, **EXPECTED[kind][0])
    d = 0.3
    by_eps = timestep_weight(SNR, "epsilon", config) * d**2 * SNR
    by_v = timestep_weight(SNR, "v_prediction", config) * d**2 * (SNR + 1)
    assert torch.allclose(by_eps, by_v)


@pytest.mark.parametrize("kind", EXPECTED)
def test_where_nothing_is_left_of_the_picture_velocity_weights_are_finite(kind: str) -> None:
    """Zero terminal SNR: the last timestep is noise alone."""
    weight = timestep_weight(torch.zeros(1), "v_prediction", weighting(kind, **EXPECTED[kind][0]))
    assert torch.isfinite(weight).all()


def test_uniform_weighs_everything_alike() -> None:
    for prediction_type in ("epsilon", "v_prediction"):
        assert timestep_weight(SNR, prediction_type, weighting("uniform")).tolist() == [1] * 5


def test_losses_are_what_they_are_called_near_zero_and_far_from_it() -> None:
    small, large, c = torch.tensor(1e-3), torch.tensor(1e3), torch.tensor(0.1)
    near = {"l2": 1e-6, "l1": 1e-3, "huber": 1e-6, "smooth_l1": 1e-6 / 0.1}
    far = {"l2": 1e6, "l1": 1e3, "huber": 2 * 0.1 * 1e3, "smooth_l1": 2 * 1e3}
    for kind, loss in LOSSES.items():
        assert float(loss(small, lambda: c)) == pytest.approx(near[kind], rel=0.01)
        assert float(loss(-large, lambda: c)) == pytest.approx(far[kind], rel=0.01)


@pytest.mark.parametrize("how", ["constant", "exponential", "snr"])
def test_threshold_falls_from_one_to_its_setting(how: Any) -> None:
    ours, _ = schedule()
    c = threshold(torch.arange(1000), ours, LossConfig(kind="huber", threshold=0.2, schedule=how))
    if how == "constant":
        assert c.tolist() == pytest.approx([0.2] * 1000)
    else:
        assert c[0] == pytest.approx(1, abs=0.1) and c[999] == pytest.approx(0.2, abs=0.02)
        assert bool((c.diff() < 0).all())


class Fixed(torch.nn.Module):
    """A network that predicts one and the same."""

    def __init__(self, prediction_BCHW: torch.Tensor) -> None:
        super().__init__()
        self.prediction_BCHW = prediction_BCHW

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, text: torch.Tensor, **rest: Any) -> Any:
        self.seen_BCHW = noisy
        return type("Output", (), {"sample": self.prediction_BCHW})


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_a_rows_error_is_what_diffusers_parts_give(prediction_type: str, kind: Any) -> None:
    ours, theirs = schedule(prediction_type)
    generator = torch.Generator().manual_seed(1)
    x, eps, more, prediction = torch.randn((4, 3, 4, 8, 8), generator=generator)
    t = torch.tensor([3, 500, 999])
    text = EncodedText(torch.zeros(3, 2, 4), torch.zeros(3, 4))
    conditioning = Conditioning(text, torch.full((3,), 2), torch.zeros(3, 6))
    network = Fixed(prediction)
    denoiser = Denoiser(Networks(network), ours, TrainingConfig(loss=LossConfig(kind=kind)))
    errors = denoiser.error(Batch(x, conditioning, eps, eps + 0.1 * more, t))
    target = eps if prediction_type == "epsilon" else theirs.get_velocity(x, eps, t)
    reference = {"l2": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}[kind]
    expected = reference(prediction, target, reduction="none").mean(dim=(1, 2, 3))
    assert torch.allclose(errors, expected, rtol=1e-5)
    assert torch.allclose(network.seen_BCHW, theirs.add_noise(x, eps + 0.1 * more, t), rtol=1e-5, atol=1e-6)


def test_row_errors_do_not_mix_rows() -> None:
    ours, _ = schedule()
    difference = torch.randn(5, 4, 8, 8)
    t = torch.tensor([1, 10, 100, 500, 999])
    for kind in LOSSES:
        config = LossConfig.model_validate({"kind": kind})
        alone = torch.cat([row_error(difference[i : i + 1], t[i : i + 1], ours, config) for i in range(5)])
        assert torch.allclose(row_error(difference, t, ours, config), alone)


def test_plain_noise_is_the_same_for_input_and_target() -> None:
    eps, given = draw_noise((4, 8, 8), NoiseConfig(), 1, 2)
    assert eps is given and torch.equal(eps, draw_noise((4, 8, 8), NoiseConfig(), 1, 2)[0])


def test_offset_shifts_whole_channels_of_both() -> None:
    plain, _ = draw_noise((4, 8, 8), NoiseConfig(), 1, 2)
    eps, given = draw_noise((4, 8, 8), NoiseConfig(offset=0.1), 1, 2)
    shift = eps - plain
    assert torch.allclose(shift, shift[:, :1, :1].expand_as(shift), atol=1e-6)
    assert torch.equal(eps, given) and len({round(float(value), 6) for value in shift[:, 0, 0]}) == 4


def test_perturbation_reaches_the_input_alone() -> None:
    plain, _ = draw_noise((4, 64, 64), NoiseConfig(), 1, 2)
    eps, given = draw_noise((4, 64, 64), NoiseConfig(perturbation=0.1), 1, 2)
    assert torch.equal(eps, plain)
    assert float((given - eps).std()) == pytest.approx(0.1, rel=0.05)


def test_multires_noise_has_variance_one_and_neighbours_alike() -> None:
    eps, _ = draw_noise((4, 64, 64), NoiseConfig(multires_levels=6, multires_discount=0.8), 1, 2)
    assert float(eps.std()) == pytest.approx(1, rel=1e-5)
    together = float((eps[:, :, 1:] * eps[:, :, :-1]).mean())
    assert together > 0.2  # independent noise has none


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal", "cubic"])
def test_timesteps_follow_their_distribution_within_their_range(distribution: Any) -> None:
    shape = {"mean": 0.5} if distribution == "logit_normal" else {}
    config = TimestepConfig(low=200, high=700, distribution=distribution, **shape)
    places = (torch.tensor([draw_timestep(config, 1000, i) for i in range(4000)]) - 200) / 500
    assert float(places.min()) >= 0 and float(places.max()) < 1
    at = {
        "uniform": lambda p: p,
        "logit_normal": lambda p: 0.5 * (1 + math.erf((math.log(p / (1 - p)) - 0.5) / math.sqrt(2))),
        "cubic": lambda p: 1 - (1 - p) ** (1 / 3),
    }[distribution]
    for place in (0.1, 0.3, 0.5, 0.8, 0.95):
        assert float((places < place).float().mean()) == pytest.approx(at(place), abs=0.03)


def test_every_timestep_is_drawn_by_default() -> None:
    drawn = {draw_timestep(TimestepConfig(), 10, i) for i in range(300)}
    assert drawn == set(range(10))


def test_a_range_that_is_empty_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected low < high"):
        TimestepConfig(low=500, high=500)
