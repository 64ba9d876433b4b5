"""Every optimizer, as the configuration builds it, against a reference that is not this code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sdxl_core.bundle import Bundle, read_bundle, write_bundle
from sdxl_core.errors import UserError
from sdxl_core.learning_rate import LR_SHAPES
from sdxl_core.optimizers import OPTIMIZERS, build_optimizer, optimizer_kind, with_progress
from sdxl_core.training_config import AdamW8bitConfig, LrSchedule, Optimizer, TrainingConfig
from sdxl_core.training_config import optimizers as configs
from tests.sdxl_core.optimizing import KINDS, configured, model, set_gradients

Weights = dict[str, Tensor]


def weights_of(trained: Mapping[str, nn.Parameter]) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in trained.items()}


def after_steps(config: TrainingConfig, steps: int) -> Weights:
    """Of our build function."""
    trained = model()
    optimizer = build_optimizer(config, trained)
    for step in range(steps):
        set_gradients(trained, step)
        optimizer.step()
    return weights_of(trained)


def after_their_steps(
    build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], decay: float, steps: int
) -> Weights:
    """Of an optimizer that someone else wrote; tokens without decay."""
    trained = model()
    groups = [
        {"params": [p for name, p in trained.items() if not name.startswith("tokens")], "weight_decay": decay},
        {"params": [trained["tokens.v"]], "weight_decay": 0.0},
    ]
    optimizer = build(groups)
    for step in range(steps):
        set_gradients(trained, step)
        optimizer.step()
    return weights_of(trained)


def assert_close(ours: Weights, theirs: Weights, rtol: float = 1e-5, atol: float = 1e-7) -> None:
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=rtol, atol=atol, msg=lambda said, n=name: f"{n}: {said}")


def test_every_optimizer_is_registered_configured_and_checked_here() -> None:
    kinds = {get_args(each.model_fields["kind"].annotation)[0] for each in get_args(get_args(Optimizer)[0])}
    assert kinds == set(OPTIMIZERS)
    checked = {"adamw", "lion", "adafactor", "prodigy", "schedule_free", "adamw_8bit"}  # by the tests below
    assert checked == kinds


def test_the_page_names_every_optimizer_schedule_and_setting() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training" / "optimizers.md").read_text()
    classes = get_args(get_args(Optimizer)[0]) + get_args(get_args(LrSchedule)[0])
    settings = {name for each in classes for name in each.model_fields} - {"kind"}
    assert [name for name in {*OPTIMIZERS, *LR_SHAPES} if f"`{name}`" not in text] == []
    assert [name for name in settings if f"`{name}" not in text] == []


def test_the_default_is_adamw_as_it_was() -> None:
    config = TrainingConfig()
    optimizer = build_optimizer(config, model())
    assert type(optimizer) is torch.optim.AdamW
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 1e-8, 0.01)
    assert TrainingConfig.model_validate({"optimizer": {"weight_decay": 0.1}}).optimizer.kind == "adamw"


def test_adamw_is_its_formula() -> None:
    config = configured("adamw", weight_decay=0.2, beta1=0.8, beta2=0.95, epsilon=1e-3)

    def formula(name: str, w: Tensor) -> Tensor:
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        for t in (1, 2):
            g = gradients(t - 1)[name].double()
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
            step = (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-3)
            w = w - 1e-3 * (step + (0.0 if name == "tokens.v" else 0.2) * w)
        return w

    assert_close(after_steps(config, 2), {n: formula(n, w.double()).float() for n, w in weights_of(model()).items()})


def test_lion_is_its_formula() -> None:
    config = configured("lion", weight_decay=0.2, beta1=0.85, beta2=0.97)

    def formula(name: str, w: Tensor) -> Tensor:
        m = torch.zeros_like(w)
        for t in range(3):
            g = gradients(t)[name].double()
            w = w - 1e-3 * ((0.85 * m + 0.15 * g).sign() + (0.0 if name == "tokens.v" else 0.2) * w)
            m = 0.97 * m + 0.03 * g
        return w

    assert_close(after_steps(config, 3), {n: formula(n, w.double()).float() for n, w in weights_of(model()).items()})


def gradients(step: int) -> Weights:
    trained = model()
    set_gradients(trained, step)
    return {name: p.grad for name, p in trained.items() if p.grad is not None}


def test_adafactor_is_torchs_where_that_cannot_scale_by_the_weights() -> None:
    """torch's rate is max(eps2, RMS of the weights) * min(rate, 1 / sqrt(t)): with eps2 = 1 and small weights, ours."""
    assert all(float(w.norm() / math.sqrt(w.numel())) < 1 for w in weights_of(model()).values())
    config = configured("adafactor", weight_decay=0.2, clip_threshold=1.0, decay_exponent=0.7)

    def build(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.Adafactor(groups, lr=1e-3, beta2_decay=-0.7, eps=(1e-15, 1.0), d=1.0)

    assert_close(after_steps(config, 5), after_their_steps(build, 0.2, 5))


def test_prodigy_is_its_authors() -> None:
    from prodigyopt import Prodigy

    settings = {"d0": 1e-4, "d_coef": 2.0, "beta2": 0.99, "weight_decay": 0.02, "slice_every": 3, "growth_rate": 1.5}

    def build(groups: Any) -> torch.optim.Optimizer:
        arguments = {"d0": 1e-4, "d_coef": 2.0, "betas": (0.9, 0.99), "slice_p": 3, "growth_rate": 1.5}
        return Prodigy(groups, lr=1.0, use_bias_correction=True, safeguard_warmup=True, **arguments)

    ours = after_steps(configured("prodigy", **settings), 6)
    assert_close(ours, after_their_steps(build, 0.02, 6), rtol=0, atol=0)
    assert not torch.allclose(ours["a.weight"], model()["a.weight"], atol=1e-4)


def test_prodigys_estimate_grows_towards_the_distance_and_is_reported() -> None:
    """Of |w - 1|^2 from w = 0; the estimate is at most the distance to the solution, coordinate by coordinate."""
    config = configured("prodigy", weight_decay=0.0)
    w = nn.Parameter(torch.zeros(50))
    optimizer = build_optimizer(config, {"w": w})
    for _ in range(300):
        w.grad = 2 * (w.detach() - 1)
        optimizer.step()
    d = optimizer_kind(config).figures(optimizer)["prodigy_d"]
    assert 0.1 < d <= 1
    assert float((w.detach() - 1).abs().max()) < 0.05


def test_prodigy_prints_nothing_among_the_trainers_events() -> None:
    with redirect_stdout(StringIO()) as said:
        build_optimizer(configured("prodigy"), model())
    assert said.getvalue() == ""


def test_schedule_free_is_its_authors_also_in_warm_up() -> None:
    """Rates that rise from outside are what their own warm-up computes."""
    from schedulefree import AdamWScheduleFree

    def build(groups: Any) -> torch.optim.Optimizer:
        optimizer = AdamWScheduleFree(groups, lr=1e-3, betas=(0.95, 0.99), warmup_steps=3)
        optimizer.train()
        return optimizer  # type: ignore[no-any-return]

    trained = model()
    optimizer = build_optimizer(configured("schedule_free", beta1=0.95, beta2=0.99, weight_decay=0.02), trained)
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 3)
        set_gradients(trained, step)
        optimizer.step()
    assert_close(weights_of(trained), after_their_steps(build, 0.02, 6), rtol=0, atol=0)


def test_what_schedule_free_uses_is_the_mean_of_its_steps_and_the_trained_weights_come_back() -> None:
    """At a constant rate all steps weigh the same."""
    config = configured("schedule_free")
    kind, trained = optimizer_kind(config), model()
    optimizer = build_optimizer(config, trained)
    places: list[Tensor] = []
    for step in range(5):
        set_gradients(trained, step)
        optimizer.step()
        places.append(optimizer.state[trained["a.weight"]]["z"].clone())
    live = weights_of(trained)
    with kind.averaged(optimizer):
        torch.testing.assert_close(trained["a.weight"].detach(), torch.stack(places).mean(0))
        assert not torch.equal(trained["a.weight"], live["a.weight"])
    assert all(torch.equal(parameter, live[name]) for name, parameter in trained.items())
    set_gradients(trained, 5)
    optimizer.step()  # and it is in training again


@pytest.mark.parametrize("kind", [param for param in KINDS if not isinstance(param, str)])
def test_eight_bit_adamw_is_its_authors_and_near_adamw(kind: str) -> None:
    from bitsandbytes.optim import AdamW8bit

    ours = after_steps(configured(kind, beta2=0.99), 4)
    theirs = after_their_steps(lambda groups: AdamW8bit(groups, lr=1e-3, betas=(0.9, 0.99)), 0.01, 4)
    assert_close(ours, theirs, rtol=0, atol=0)
    exact = after_steps(configured("adamw", beta2=0.99), 4)
    moved = exact["a.weight"] - model()["a.weight"]
    assert float((ours["a.weight"] - exact["a.weight"]).detach().norm() / moved.detach().norm()) < 0.05


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package bitsandbytes: install with pip install -e '\.\[8bit\]'"):
        AdamW8bitConfig(kind="adamw_8bit").require()
    configured("adamw").optimizer.require()


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_keeps_as_many_bytes_as_it_says(kind: str) -> None:
    """But for a handful of numbers per tensor."""
    config, trained = configured(kind), model()
    optimizer = build_optimizer(config, trained)
    set_gradients(trained, 0)
    optimizer.step()
    said = optimizer_kind(config)
    for parameter in trained.values():
        held = sum(t.nbytes for t in optimizer.state[parameter].values() if isinstance(t, Tensor) and t.ndim > 0)
        assert held == said.state_bytes(parameter)


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_a_bundle_is_going_on(kind: str, tmp_path: Path) -> None:
    """Three steps, a bundle, another process's optimizer with its state, three more: six in one go, to the last bit."""
    straight = after_steps(configured(kind), 6)
    config, trained = configured(kind), model()
    optimizer = build_optimizer(config, trained)
    for step in range(3):
        set_gradients(trained, step)
        optimizer.step()
    state = optimizer.state_dict()
    written = write_bundle(tmp_path, Bundle(3, weights_of(trained), {}, state, {}, {}, "", {}))
    found = read_bundle(written)
    again = {name: nn.Parameter(found.weights[name]) for name in trained}
    other = build_optimizer(config, again)
    settings = with_progress(
        optimizer_kind(config), other.state_dict()["param_groups"], found.optimizer["param_groups"]
    )
    other.load_state_dict({"state": found.optimizer["state"], "param_groups": settings})
    for step in range(3, 6):
        set_gradients(again, step)
        other.step()
    assert all(torch.equal(again[name], weight) for name, weight in straight.items())


@pytest.mark.parametrize("kind", KINDS)
def test_progress_is_all_that_steps_change_in_groups(kind: str) -> None:
    """And settings come from the configuration, also those that the bundle had otherwise."""
    config, trained = configured(kind), model()
    optimizer = build_optimizer(config, trained)
    before = [dict(group) for group in optimizer.state_dict()["param_groups"]]
    set_gradients(trained, 0)
    optimizer.step()
    after = optimizer.state_dict()["param_groups"]
    changed = {name for old, new in zip(before, after, strict=True) for name in new if new[name] != old.get(name)}
    assert changed <= set(OPTIMIZERS[kind].progress)
    slower = [{**group, "weight_decay": 0.5} for group in before]
    restored = with_progress(optimizer_kind(config), slower, after)
    assert all(group["weight_decay"] == 0.5 for group in restored)
    assert all(group[name] == new[name] for group, new in zip(restored, after, strict=True) for name in changed)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": {"kind": "prodigy"}}, "expected learning_rate = 1, got 0.0001"),
        ({"optimizer": {"kind": "prodigy"}, "learning_rate": 1, "scale_lr": "sqrt"}, "scale_lr = none"),
        ({"optimizer": {"kind": "prodigy"}, "learning_rate": 1, "learning_rates": {"tokens": 0.5}}, "one rate"),
        (
            {"optimizer": {"kind": "prodigy", "safeguard_warmup": False}, "learning_rate": 1, "warmup_steps": 5},
            "safeguard_warmup=true",
        ),
        (
            {
                "optimizer": {"kind": "prodigy", "safeguard_warmup": False},
                "learning_rate": 1,
                "lr_schedule": "cosine_with_restarts",
            },
            "safeguard_warmup=true",
        ),
        ({"optimizer": {"kind": "schedule_free"}, "ema": {}}, "ema=null"),
        ({"optimizer": {"kind": "schedule_free"}, "lr_schedule": "cosine"}, "expected lr_schedule = constant"),
        ({"optimizer": {"kind": "adagrad"}}, "schedule_free"),
        ({"optimizer": {"kind": "lion", "epsilon": 1e-8}}, "Extra inputs"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainingConfig.model_validate(settings)
