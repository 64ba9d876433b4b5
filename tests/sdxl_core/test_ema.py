"""The average is diffusers' average, step by step, wherever it is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from pydantic import ValidationError
from torch import nn

from sdxl_core.ema import Ema, NoEma, build_ema
from sdxl_core.training_config import EmaConfig

STEPS = 60
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "short": {"decay": 0.9},
    "late": {"decay": 0.95, "update_after_step": 7},
    "power": {"warmup": "power"},
    "slow power": {"warmup": "power", "inv_gamma": 3.0, "power": 0.75, "update_after_step": 2},
    "at least": {"decay": 0.95, "min_decay": 0.5},
    "no warm-up": {"decay": 0.9, "min_decay": 0.9},
}


def theirs(parameters: list[nn.Parameter], config: EmaConfig) -> EMAModel:
    return EMAModel(
        parameters,
        decay=config.decay,
        min_decay=config.min_decay,
        update_after_step=config.update_after_step,
        use_ema_warmup=config.warmup == "power",
        inv_gamma=config.inv_gamma,
        power=config.power,
    )


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in {"a": (3, 5), "b": (7,)}.items()
    }


def train(trained: dict[str, nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in trained.values():
        parameter.data += torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_decays_and_averages_are_those_of_diffusers(settings: dict[str, Any]) -> None:
    config, trained = EmaConfig.model_validate(settings), parameters()
    ours, reference = Ema(config, trained), theirs(list(trained.values()), config)
    for step in range(1, STEPS + 1):
        train(trained, step)
        ours.update(step)
        reference.step(list(trained.values()))
        assert ours.decay(step) == reference.cur_decay_value
        for average, shadow in zip(ours.averages, reference.shadow_params, strict=True):
            assert torch.allclose(average, shadow, rtol=1e-5, atol=1e-6)


def averages(settings: dict[str, Any], steps: int = STEPS, device: str = "cpu") -> list[torch.Tensor]:
    trained = {name: nn.Parameter(p.detach().to(device)) for name, p in parameters().items()}
    ema = Ema(EmaConfig.model_validate(settings), trained)
    for step in range(1, steps + 1):
        generator = torch.Generator().manual_seed(step)
        for parameter in trained.values():
            parameter.data += torch.randn(parameter.shape, generator=generator).to(device)
        ema.update(step)
    return [average.cpu() for average in ema.averages]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_main_memory_holds_the_same_numbers(settings: dict[str, Any]) -> None:
    for here, there in zip(averages(settings), averages({**settings, "device": "cpu"}), strict=True):
        assert torch.equal(here, there)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_main_memory_holds_the_same_numbers_for_a_gpu() -> None:
    for here, there in zip(averages({}, device="cuda"), averages({"device": "cpu"}, device="cuda"), strict=True):
        assert torch.allclose(here, there, rtol=1e-5, atol=1e-6)


def test_rare_updates_reach_as_far_back() -> None:
    """The weight that the beginning still has after n steps is decay ** n, however many updates that took."""
    parameter = nn.Parameter(torch.ones(1))
    left = []
    for every in (1, 5):
        ema = Ema(EmaConfig(decay=0.9, min_decay=0.9, update_every_steps=every, update_after_step=0), {"a": parameter})
        ema.averages[0].fill_(0.0)
        parameter.data.fill_(1.0)
        ema.update(5)
        parameter.data.fill_(0.0)
        for step in range(6, 31):
            ema.update(step)
        left.append(ema.averages[0].item())
    assert left[0] == pytest.approx((1 - 0.9) * 0.9**25)
    assert left[1] == pytest.approx((1 - 0.9**5) * 0.9**25)


@pytest.mark.parametrize("device", ["same", "cpu"])
def test_the_model_holds_the_average_inside_and_its_own_weights_afterwards(device: str) -> None:
    trained = parameters()
    ema = build_ema(EmaConfig.model_validate({"device": device}), trained)
    for step in (1, 2, 3):
        train(trained, step)
        ema.update(step)
    own = {name: p.detach().clone() for name, p in trained.items()}
    with ema.applied():
        assert all(torch.equal(p, ema.state()[name]) and not torch.equal(p, own[name]) for name, p in trained.items())
    assert all(torch.equal(p, own[name]) for name, p in trained.items())
    with NoEma().applied():
        assert all(torch.equal(p, own[name]) for name, p in trained.items())


def test_what_is_saved_is_enough_to_go_on() -> None:
    trained = parameters()
    straight, first = (Ema(EmaConfig(update_every_steps=2), trained) for _ in range(2))
    for step in range(1, 6):
        train(trained, step)
        straight.update(step)
        first.update(step)
    second = Ema(EmaConfig(update_every_steps=2), trained)
    second.load({name: average.clone() for name, average in first.state().items()})
    for step in range(6, 12):
        train(trained, step)
        straight.update(step)
        second.update(step)
    assert all(torch.equal(a, b) for a, b in zip(straight.averages, second.averages, strict=True))


def test_a_floor_above_the_cap_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"min_decay <= decay, got min_decay 0\.95 and decay 0\.9"):
        EmaConfig(decay=0.9, min_decay=0.95)
