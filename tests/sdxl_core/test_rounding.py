"""Stochastic rounding: to a neighbour, right on average, and a function of its counters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sdxl_core.optimizers import build_optimizer
from sdxl_core.optimizers.rounding import STEP, RoundingOptimizer, round_stochastically
from sdxl_core.training_config import TrainingConfig
from tests.sdxl_core.optimizing import SEPARABLE, SETTINGS, model, set_gradients


def rounded(x: Tensor, seed: int = 0) -> Tensor:
    return round_stochastically(x, torch.Generator().manual_seed(seed))


def configured_bf16(kind: str) -> TrainingConfig:
    return TrainingConfig.model_validate({**SETTINGS[kind], "trained_weights": "bf16", "precision": "bf16"})


def bf16_model() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(p.detach().bfloat16()) for name, p in model().items()}


def take_steps(optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            group[STEP] = step
        set_gradients(trained, step)
        optimizer.step()


@pytest.mark.parametrize("value", [1.0 + 1 / 700, -1.0 - 1 / 700, 3e-5, -1e30, 0.1])
def test_the_mean_of_roundings_is_the_number(value: float) -> None:
    """Each is one of the two neighbours, so the error of the mean of n has deviation below gap / (2 sqrt n)."""
    n = 40_000
    x = torch.full((n,), value)
    exact = float(x[0])
    found = rounded(x).double()
    values = found.unique().tolist()
    assert len(values) == 2 and min(values) < exact < max(values)
    gap = max(values) - min(values)
    assert abs(float(found.mean()) - exact) < 5 * gap / (2 * math.sqrt(n))


def test_what_is_bfloat16_already_stays() -> None:
    x = torch.randn(1000).bfloat16().float()
    x[:3] = torch.tensor([0.0, -0.0, 2.0**-130])
    assert torch.equal(rounded(x), x.bfloat16())


def test_bits_are_a_function_of_their_counters() -> None:
    x = torch.randn(1000)
    assert torch.equal(rounded(x, 3), rounded(x, 3)) and not torch.equal(rounded(x, 3), rounded(x, 4))


@pytest.mark.parametrize("layout", ["transposed", "channels last"])
def test_any_layout_in_memory_will_do(layout: str) -> None:
    x = torch.randn(4, 6, 5, 5)
    x = x.transpose(0, 1) if layout == "transposed" else x.to(memory_format=torch.channels_last)
    assert bool(((rounded(x).float() - x).abs() <= x.abs() / 128).all())


@pytest.mark.parametrize("kind", SEPARABLE)
def test_small_updates_arrive_that_rounding_to_the_nearest_loses(kind: str) -> None:
    """A thousand times 1e-5 from 1: plain bfloat16, whose next number below is 1 - 2**-8, never leaves 1."""
    settings = {**SETTINGS[kind], "learning_rate": 1e-5, "trained_weights": "bf16", "precision": "bf16"}
    config = TrainingConfig.model_validate({**settings, "optimizer": {"kind": kind, "weight_decay": 0.0}})
    parameter = nn.Parameter(torch.ones(20, 20, dtype=torch.bfloat16))
    assert bool((parameter - 1e-5 == 1).all())
    optimizer = build_optimizer(config, {"a": parameter})
    for step in range(1000):
        optimizer.param_groups[0][STEP] = step
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    moved = 1 - float(parameter.detach().double().mean())
    assert moved == pytest.approx(0.01, rel=0.1)  # 400 walks: deviation of their mean 1.5 %


@pytest.mark.parametrize("kind", SEPARABLE)
def test_an_update_is_the_float32_update_rounded(kind: str) -> None:
    """A step on bfloat16 weights goes to a neighbour of where the same optimizer takes them in float32."""
    trained = bf16_model()
    exact = {name: nn.Parameter(p.detach().float()) for name, p in trained.items()}
    low, high = (
        build_optimizer(configured_bf16(kind), trained),
        build_optimizer(TrainingConfig.model_validate(SETTINGS[kind]), exact),
    )
    assert isinstance(low, RoundingOptimizer)
    set_gradients(trained, 0)
    for name, parameter in exact.items():
        gradient = trained[name].grad
        assert gradient is not None
        parameter.grad = gradient.float()
    low.step()
    high.step()
    for name, parameter in trained.items():
        gap = exact[name].detach().abs() / 128 + 1e-30
        assert parameter.dtype == torch.bfloat16
        assert bool(((parameter.detach().float() - exact[name].detach()).abs() <= gap).all())


@pytest.mark.parametrize("kind", SEPARABLE)
def test_state_is_never_bfloat16_goes_on_bit_for_bit_and_no_copies_stay(kind: str) -> None:
    straight = bf16_model()
    take_steps(build_optimizer(configured_bf16(kind), straight), straight, range(6))
    trained = bf16_model()
    optimizer = build_optimizer(configured_bf16(kind), trained)
    take_steps(optimizer, trained, range(3))
    assert isinstance(optimizer, RoundingOptimizer)
    assert all(p.numel() == 0 and p.grad is None for group in optimizer.inner.param_groups for p in group["params"])
    tensors = [t for entry in optimizer.inner.state.values() for t in entry.values() if isinstance(t, Tensor)]
    assert tensors and {t.dtype for t in tensors} <= {torch.float32, torch.uint8}
    again = {name: nn.Parameter(p.detach().clone()) for name, p in trained.items()}
    other = build_optimizer(configured_bf16(kind), again)
    other.load_state_dict(optimizer.state_dict())
    take_steps(other, again, range(3, 6))
    assert all(torch.equal(again[name], straight[name]) for name in straight)


def test_another_seed_or_step_rounds_otherwise() -> None:
    def end(seed: int, first: int) -> Tensor:
        config = configured_bf16("adamw").model_copy(update={"seed": seed})
        trained = bf16_model()
        take_steps(build_optimizer(config, trained), trained, range(first, first + 1))
        return trained["a.weight"].detach()

    def end_of_step_0(seed: int, number: int) -> Tensor:
        """The same gradients, called another step."""
        trained = bf16_model()
        optimizer = build_optimizer(configured_bf16("adamw").model_copy(update={"seed": seed}), trained)
        for group in optimizer.param_groups:
            group[STEP] = number
        set_gradients(trained, 0)
        optimizer.step()
        return trained["a.weight"].detach()

    assert torch.equal(end(0, 0), end_of_step_0(0, 0))
    assert not torch.equal(end_of_step_0(0, 0), end_of_step_0(0, 1))
    assert not torch.equal(end_of_step_0(0, 0), end_of_step_0(1, 0))
