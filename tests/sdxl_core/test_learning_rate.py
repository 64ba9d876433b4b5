"""Laws of the learning rates, against diffusers' own schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from diffusers.optimization import SchedulerType, get_scheduler
from pydantic import ValidationError

from sdxl_core.learning_rate import LR_SHAPES, ROW_FACTORS, base_rate, learning_rate, learning_rates
from sdxl_core.optimizers import build_optimizer
from sdxl_core.optimizers.rounding import STEP
from sdxl_core.parts import PARTS, Part, part_of
from sdxl_core.training_config import LrSchedule, TrainingConfig
from tests.sdxl_core.optimizing import SEPARABLE, parameters, set_gradients

STEPS, WARMUP, RATE = 40, 7, 3e-4
TOKENS = [{"token": "<kestrel>"}]
SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "constant": ({}, {}),
    "constant_with_warmup": ({}, {}),
    "linear": ({}, {}),
    "cosine": ({}, {}),
    "cosine_with_restarts": ({"cycles": 3}, {"num_cycles": 3}),
    "polynomial": ({"power": 2.5}, {"power": 2.5}),
    "piecewise_constant": (
        {"factors": [1.0, 0.1, 0.01], "until_steps": [5, 21]},
        {"step_rules": "1.0:5,0.1:21,0.01"},
    ),
}
"""Of each kind: our settings, and diffusers' arguments."""


def ours(kind: str, warmup: int, steps: int = STEPS) -> TrainingConfig:
    schedule = {"kind": kind, **SCHEDULES[kind][0]}
    return TrainingConfig.model_validate(
        {"max_steps": steps, "learning_rate": RATE, "warmup_steps": warmup, "lr_schedule": schedule}
    )


def theirs(kind: str, warmup: int) -> Callable[[int], float]:
    """diffusers' rate at a step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    arguments = {"num_warmup_steps": warmup, "num_training_steps": STEPS, **SCHEDULES[kind][1]}
    factor = get_scheduler(kind, optimizer, **arguments).lr_lambdas[0]
    return lambda step: RATE * factor(step)


def test_every_schedule_of_diffusers_is_here() -> None:
    kinds = {get_args(each.model_fields["kind"].annotation)[0] for each in get_args(get_args(LrSchedule)[0])}
    assert kinds == set(LR_SHAPES) == {each.value for each in SchedulerType} == set(SCHEDULES)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_rates_are_diffusers_after_warm_up(kind: str, warmup: int) -> None:
    """To the last step and one beyond; further on a run does not go, and diffusers' cosine rises again."""
    warmup = 0 if kind == "piecewise_constant" else warmup  # it has none there, and refuses one here
    config, expected = ours(kind, warmup), theirs(kind, warmup)
    for step in range(warmup, STEPS + 1):
        assert learning_rate(config, step) == pytest.approx(expected(step), rel=1e-12, abs=1e-20)


@pytest.mark.parametrize("kind", sorted(set(SCHEDULES) - {"constant", "piecewise_constant"}))
def test_warm_up_is_diffusers_of_one_step_more_begun_after_its_zero(kind: str) -> None:
    config, expected = ours(kind, WARMUP), theirs(kind, WARMUP + 1)
    rates = [learning_rate(config, step) for step in range(WARMUP + 1)]
    assert rates == pytest.approx([expected(step + 1) for step in range(WARMUP)] + [RATE], rel=1e-12)
    assert rates[0] > 0 and all(a < b for a, b in pairwise(rates))


def test_cycles_of_a_cosine_are_periods() -> None:
    config = TrainingConfig.model_validate({"max_steps": 100, "lr_schedule": {"kind": "cosine", "cycles": 1}})
    assert [learning_rate(config, step) for step in (0, 50, 100)] == pytest.approx([1e-4, 0, 1e-4], abs=1e-12)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_length_decides_a_runs_identity_exactly_if_a_rate_depends_on_it(kind: str) -> None:
    short, long = ours(kind, 0, 40), ours(kind, 0, 80)
    alike = all(learning_rate(short, step) == learning_rate(long, step) for step in range(40))
    assert (short.lasting == long.lasting) is alike


def test_a_name_alone_is_the_schedule_of_that_name() -> None:
    assert TrainingConfig.model_validate({"lr_schedule": "cosine"}) == TrainingConfig.model_validate(
        {"lr_schedule": {"kind": "cosine"}}
    )


def test_rows_scale_the_rate_whatever_makes_them_up() -> None:
    assert [ROW_FACTORS[how](16) for how in ("none", "linear", "sqrt")] == [1, 16, 4]
    for how, factor in (("none", 1), ("linear", 16), ("sqrt", 4)):
        config = TrainingConfig.model_validate(
            {"scale_lr": how, "learning_rate": 1e-4, "learning_rates": {"tokens": 2e-4}, "new_tokens": TOKENS}
        )
        assert base_rate(config, "unet", 16) == pytest.approx(factor * 1e-4)
        assert base_rate(config, "tokens", 16) == pytest.approx(factor * 2e-4)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("down_blocks.0.attentions.0.weight", "unet"),
        ("unet.down_blocks.0.weight", "unet"),
        ("text_encoder.text_model.weight", "text_encoder"),
        ("text_encoder_2.text_model.weight", "text_encoder_2"),
        ("text_encoder_3.weight", "unet"),
        ("tokens.vectors", "tokens"),
    ],
)
def test_a_parameters_part_stands_before_its_first_dot(name: str, part: Part) -> None:
    assert part_of(name) == part


def test_every_part_has_a_group_with_its_rate_and_tokens_do_not_decay() -> None:
    rates = {"text_encoder": 1e-5, "tokens": 1e-3}
    trained = {"text_encoders": {}, "new_tokens": TOKENS}
    config = TrainingConfig.model_validate({"learning_rate": 1e-4, "learning_rates": rates, **trained})
    trained = parameters("tokens.v", "text_encoder_2.a", "conv_in.w", "text_encoder.b", "unet.c")
    groups = build_optimizer(config, trained).param_groups
    assert [group["part"] for group in groups] == list(PARTS)
    assert [group["lr"] for group in groups] == [1e-4, 1e-5, 1e-4, 1e-3]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.01, 0.01, 0]
    assert [p is q for p, q in zip(groups[0]["params"], (trained["conv_in.w"], trained["unet.c"]), strict=True)] == [
        True
    ] * 2


STOPPING: dict[str, Any] = {"text_encoders": {"until_step": 2}}


def test_text_encoders_stop_and_the_rest_goes_on() -> None:
    plain, stopping = (
        TrainingConfig.model_validate({"lr_schedule": "cosine", "max_steps": 5, **more})
        for more in ({"text_encoders": {}}, STOPPING)
    )
    for step in range(5):
        rates, without = (learning_rates(each, step, PARTS, 4) for each in (stopping, plain))
        stopped = {"text_encoder", "text_encoder_2"} if step >= 2 else set()
        assert rates == {part: 0.0 if part in stopped else rate for part, rate in without.items()}


@pytest.mark.parametrize("kind", SEPARABLE)
@pytest.mark.parametrize("trained_weights", ["fp32", "bf16"])
def test_what_has_stopped_is_moved_by_no_gradient_moment_or_decay(kind: str, trained_weights: str) -> None:
    precision = {"trained_weights": trained_weights, "precision": trained_weights}
    config = TrainingConfig.model_validate(
        {"optimizer": {"kind": kind, "weight_decay": 0.3}, "learning_rate": 0.01, **precision, **STOPPING}
    )
    trained = parameters("unet.a", "text_encoder.b", "text_encoder_2.c", shape=(72, 64))
    for parameter in trained.values():
        parameter.data = parameter.data.to(torch.bfloat16 if trained_weights == "bf16" else torch.float32)
    optimizer = build_optimizer(config, trained)
    steps = []
    for step in range(4):
        set_gradients(trained, step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rates(config, step, PARTS, 1)[group["part"]]
            group[STEP] = step
        optimizer.step()
        steps.append({name: parameter.detach().clone() for name, parameter in trained.items()})
    for name in trained:
        moved = [not torch.equal(before[name], after[name]) for before, after in pairwise(steps)]
        assert moved == [True, name == "unet.a", name == "unet.a"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr_schedule": {"kind": "polynomial", "end_rate": 1e-3}}, "end_rate: expected less than learning_rate"),
        ({"lr_schedule": {"kind": "piecewise_constant", "factors": [1, 0.1], "until_steps": []}}, "one step fewer"),
        (
            {"lr_schedule": {"kind": "piecewise_constant", "factors": [1, 0.5, 0.1], "until_steps": [9, 5]}},
            "rising",
        ),
        (
            {"lr_schedule": {"kind": "piecewise_constant", "factors": [1], "until_steps": []}, "warmup_steps": 3},
            "states its own beginning",
        ),
        ({"max_steps": 5, "text_encoders": {"until_step": 6}}, "until_step: expected at most max_steps = 5, got 6"),
        ({"optimizer": {"kind": "prodigy"}, "learning_rate": 1, **STOPPING}, "so none can stop"),
        ({"optimizer": {"kind": "schedule_free"}, **STOPPING}, "so nothing stops"),
        ({"lr_schedule": "sine"}, "cosine_with_restarts"),
        ({"lr_schedule": {"kind": "cosine", "power": 2}}, "Extra inputs"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainingConfig.model_validate(settings)


def test_warm_up_ends_where_it_would_without_a_step_at_zero() -> None:
    config = TrainingConfig.model_validate({"warmup_steps": 9, "learning_rate": 1e-3})
    assert [learning_rate(config, step) for step in (0, 4, 9, 50)] == pytest.approx([1e-4, 5e-4, 1e-3, 1e-3])
    assert math.isclose(learning_rate(config, 4, 2e-3), 1e-3)
