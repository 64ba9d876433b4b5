"""Laws that hold for every kind of adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdxl_core.adapter_targets import resolve_targets
from sdxl_core.adapters import ADAPTERS
from sdxl_core.bundle import read_bundle
from sdxl_core.model import cast_frozen, load_unet
from sdxl_core.networks import Networks
from sdxl_core.peft_layers import stored_layers
from sdxl_core.text_encoders import TextEncoders
from sdxl_core.training_config.adapters import PRESETS, LoraInit
from tests.sdxl_core.adapter_cases import (
    CASES,
    FORMULAS,
    attached,
    build,
    configured,
    layers,
    networks,
    output,
    train_for_a_moment,
    trained_tensors,
)
from tests.sdxl_core.jobs import Jobs, files, history, run
from tests.tiers import first_of


def test_every_kind_and_initialisation_is_asked() -> None:
    assert {case["kind"] for case in CASES.values()} == ADAPTERS.keys() - {"full", "none"}
    assert {configured(case).init for case in CASES if CASES[case]["kind"] == "lora"} == set(get_args(LoraInit))
    assert FORMULAS.keys() == CASES.keys()


def test_every_kind_and_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training" / "adapters.md").read_text(encoding="utf-8")
    options = {name for case in CASES for name in type(configured(case)).model_fields}
    for name in ADAPTERS.keys() | options | {*get_args(LoraInit), *PRESETS}:
        assert f"`{name}" in page or f"{name}: " in page or f" {name}`" in page, name


@pytest.fixture(scope="module")
def base_outputs(random_sdxl: Path) -> dict[str, Tensor]:
    return {part: output(part, module) for part, module in networks(random_sdxl).items()}


@pytest.mark.parametrize("case", first_of(CASES, 2))
def test_it_begins_as_the_base_and_off_it_is_the_base(
    random_sdxl: Path, base_outputs: dict[str, Tensor], case: str
) -> None:
    """Bit for bit; and in between, it changes all three networks."""
    adapter, found = attached(case, random_sdxl)
    for part, module in found.items():
        assert torch.equal(output(part, module), base_outputs[part])
        train_for_a_moment(module)
        assert not torch.allclose(output(part, module), base_outputs[part], atol=1e-3)
    encoders = TextEncoders(found["text_encoder"], found["text_encoder_2"])
    with adapter.base(Networks(found["unet"], encoders), torch.float32)() as base:
        for part, module in base.parts.items():
            assert torch.equal(output(part, module), base_outputs[part])


@pytest.mark.parametrize("case", first_of(CASES, 2))
def test_first_weights_are_a_function_of_the_seed(random_sdxl: Path, case: str) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        unet = load_unet(random_sdxl)
        torch.manual_seed(torch.seed())  # whatever was drawn before
        return {name: p.detach().clone() for name, p in build(case).attach("unet", unet, seed).items()}

    first, again, other = weights(1), weights(1), weights(2)
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    drawn = case not in ("olora", "oft", "pissa")  # of the base alone, or all zero
    assert any(not torch.equal(first[name], other[name]) for name in first) is drawn


def scale_of(case: str, name: str, layer: Any) -> float:
    """As the configuration says it."""
    config = configured(case)
    if config.kind == "oft":
        return 1.0
    rank, alpha = config.rank, config.scaled_alpha
    if isinstance(layer.get_base_layer(), nn.Conv2d) and config.conv_alpha is not None:
        rank, alpha = config.conv_rank, config.conv_alpha
    if getattr(config, "use_rslora", False):
        return alpha / math.sqrt(9 if name.startswith("mid_block") else rank)
    return float(alpha / rank)


def base_operation(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    base = layer.get_base_layer()
    if isinstance(base, nn.Conv2d):
        return functional.conv2d(x, weight, base.bias, base.stride, base.padding)
    return functional.linear(x, weight, base.bias)


@pytest.mark.ci
@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_every_layer_computes_its_definition(random_sdxl: Path, case: str, part: str) -> None:
    """peft's forward pass is the base layer's with the weight that the kind's formula gives."""
    found = networks(random_sdxl)[part]
    build(case).attach(part, found, 0)
    train_for_a_moment(found)
    for name, layer in layers(found).items():
        base = layer.get_base_layer().weight
        weight = FORMULAS[case](base, trained_tensors(layer), scale_of(case, name, layer))
        x = torch.randn(3, base.shape[1], *([7, 7] if base.dim() == 4 else []))
        expected = base_operation(layer, x, weight)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.ci
@pytest.mark.parametrize("case", CASES)
def test_ranks_and_layers_are_those_configured(random_sdxl: Path, case: str) -> None:
    config = configured(case)
    for part, module in networks(random_sdxl).items():
        targets = resolve_targets(part, config, stored_layers(part, module))
        build(case).attach(part, module, 0)
        prefix = "text_model." if part == "text_encoder" else ""
        adapted = {prefix + name: layer for name, layer in layers(module).items()}
        assert adapted.keys() == targets.keys()
        if config.kind != "oft":
            assert {name: layer.r["default"] for name, layer in adapted.items()} == {
                name: target.rank for name, target in targets.items()
            }


@pytest.mark.parametrize("case", first_of(CASES, 2))
def test_in_half_precision_it_is_trained_in_float32_and_computes_nearly_the_same(random_sdxl: Path, case: str) -> None:
    adapter, unet = build(case), load_unet(random_sdxl).eval()
    trained = adapter.attach("unet", unet, 0)
    train_for_a_moment(unet, far=0.02)
    whole = output("unet", unet)
    cast_frozen(unet, torch.bfloat16)
    half = output("unet", unet, torch.bfloat16)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert functional.mse_loss(half, whole).sqrt() < 0.03 * whole.std()


def unet_alone(case: str) -> dict[str, Any]:
    blocks = CASES[case].get("block_ranks", {})
    return (
        CASES[case] | {"block_ranks": {b: r for b, r in blocks.items() if b != "text_encoder"}}
        if blocks
        else CASES[case]
    )


@pytest.mark.parametrize("case", first_of(CASES, 2))
def test_two_steps_and_one_more_are_three(jobs: Jobs, tmp_path: Path, case: str) -> None:
    settings = {
        "max_steps": 3,
        "objective": {"kind": "diffusion"},
        "adapter": unet_alone(case),
        "micro_batch_size": 1,
        "learning_rate": 1e-3,
    }
    straight, halves = jobs(tmp_path / "straight", **settings), jobs(tmp_path / "halves", **settings)
    assert run(straight)
    fewer = jobs(tmp_path / "halves", **settings | {"max_steps": 2})
    assert run(fewer.model_copy(update={"out": tmp_path / "two"}))
    assert run(halves)
    assert files(halves.out) == files(straight.out)
    last = [read_bundle(job.work / "bundles" / "step-00000003") for job in (straight, halves)]
    assert all(torch.equal(tensor, last[1].weights[name]) for name, tensor in last[0].weights.items())
    assert {tensor.dtype for tensor in last[0].weights.values()} == {torch.float32}
    assert all(math.isfinite(row["loss"]) for row in history(straight))


@pytest.mark.parametrize("case", first_of(["dora", "pissa", "loha", "lokr", "oft"]))
def test_text_encoders_learn_by_the_same_kind(jobs: Jobs, tmp_path: Path, case: str) -> None:
    """Their last layer but one is read, so their first has to move; and what is resumed moves on alike."""
    settings = {"adapter": CASES[case], "text_encoders": {}, "ema": None, "micro_batch_size": 1}
    for steps in (1, 2):
        job = jobs(tmp_path, objective={"kind": "diffusion"}, **settings, max_steps=steps)
        assert run(job.model_copy(update={"text": None}))
    first, last = [read_bundle(job.work / "bundles" / f"step-0000000{step}").weights for step in (1, 2)]
    for part in ("unet", "text_encoder", "text_encoder_2"):
        moved = [name for name in first if name.startswith(f"{part}.") and not torch.equal(first[name], last[name])]
        assert moved and (part == "unet" or any(".layers.0." in name for name in moved))


@pytest.mark.ci
@pytest.mark.parametrize("case", ["pissa", "olora"])
def test_what_it_began_with_is_the_bundles(
    jobs: Jobs, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another library or machine may decompose the base otherwise; a run goes on with what it began with."""
    from sdxl_core import from_base

    settings = {"objective": {"kind": "diffusion"}, "adapter": unet_alone(case), "ema": None, "max_steps": 3}
    straight = jobs(tmp_path / "straight", **settings)
    assert run(straight)
    fewer = jobs(tmp_path / "halves", **settings | {"max_steps": 2})
    assert run(fewer.model_copy(update={"out": tmp_path / "two"}))
    own = from_base.INITS[case]

    def mirrored(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        A, B = own(weight, rank, scale)
        return -A, -B * 1.001

    monkeypatch.setitem(from_base.INITS, case, mirrored)
    halves = jobs(tmp_path / "halves", **settings)
    assert run(halves)
    assert files(halves.out) == files(straight.out)


@torch.no_grad()
@pytest.mark.parametrize("case", ["pissa", "olora"])
def test_initial_factors_are_the_papers(random_sdxl: Path, case: str) -> None:
    """Against a full singular value decomposition, and peft's own initialisation."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import inject_adapter_in_model

    ours, theirs = load_unet(random_sdxl), load_unet(random_sdxl)
    build(case, block_ranks={}).attach("unet", ours, 0)
    config = configured(case)
    reference = PeftLoraConfig(r=4, lora_alpha=config.alpha, init_lora_weights=case, target_modules=["to_q", "to_k"])
    inject_adapter_in_model(reference, theirs)
    compared = layers(theirs)
    assert compared
    for name, layer in compared.items():
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        own = layers(ours)[name].initial_factors
        left = torch.linalg.svdvals(product - own.B @ own.A)[0] / torch.linalg.svdvals(product)[0]
        assert left < 0.02, name
