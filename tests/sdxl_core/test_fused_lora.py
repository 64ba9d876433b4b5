"""A LoRA as one operation: the numbers are peft's, less is kept, and what cannot be one says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from sdxl_core.fused_lora import FusedLinear, LoraProduct, fuse_lora
from tests.sdxl_core.jobs import LORA, Jobs, files, history, run
from tests.sdxl_core.test_memory_saving import FROM_BASE, PLAIN, assert_alike, backward, started

INPUTS, OUTPUTS = 48, 64


def layer(fused: bool, *, bias: bool = True, alpha: float = 6.0, **settings: Any) -> Any:
    """A linear layer with a LoRA whose factors are both random."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(INPUTS, OUTPUTS, bias=bias)).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=alpha, target_modules=["0"], **settings), network, "default")
    network[0].lora_B["default"].weight.data.normal_()
    if fused:
        assert fuse_lora(network) is None
    return network[0]


def pass_through(lora: Any, x: Tensor, autocast: bool = False) -> list[Tensor]:
    """Output, and gradients of the input and of both factors."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = lora(x)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.dtype)
    out.backward(g)
    return [out.detach(), x.grad, lora.lora_A["default"].weight.grad, lora.lora_B["default"].weight.grad]  # type: ignore[list-item]


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, INPUTS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("alpha", [4.0, 6.0], ids=["scale 1", "scale 1.5"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "x", [rows(7), rows(2, 5), rows(2, 3, 4), rows(5, 2).transpose(0, 1)], ids=["2", "3", "4", "t"]
)
def test_numbers_are_peft_s(x: Tensor, bias: bool, alpha: float) -> None:
    ours, theirs = (pass_through(layer(fused, bias=bias, alpha=alpha), x) for fused in (True, False))
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.shape == expected.shape and mine.dtype == expected.dtype
        assert float((mine - expected).norm() / expected.norm()) < 1e-6


def test_under_autocast_it_rounds_no_worse_than_peft() -> None:
    """Both against the same in float64; the trained factors' gradients stay float32."""
    x = rows(4, 32)
    exact = pass_through(layer(False).double(), x.double())
    ours, theirs = (pass_through(layer(fused), x, autocast=True) for fused in (True, False))
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == other.dtype
        error, allowed = ((each.double() - right).norm() / right.norm() for each in (mine, other))
        assert 0 < float(error) < 1.2 * float(allowed)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_the_function_s(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, learns: bool = True) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(learns)

    frozen = draw(6, 5, learns=False), draw(6, learns=False) if bias else None
    assert torch.autograd.gradcheck(LoraProduct.apply, (draw(2, 3, 5), *frozen, draw(2, 5), draw(6, 2), 0.7))


def test_only_the_input_and_the_thin_product_are_kept() -> None:
    lora, x = layer(True), rows(1000)
    weights = {p.data_ptr() for p in lora.parameters()} | {x.data_ptr()}
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        lora(x.requires_grad_())
    assert [tuple(tensor.shape) for tensor in kept if tensor.data_ptr() not in weights] == [(1000, 4)]


def test_no_gradient_is_worked_out_that_nobody_asks_for() -> None:
    lora, x = layer(True), rows(8)
    lora(x).sum().backward()
    assert x.grad is None and lora.lora_A["default"].weight.grad is not None
    assert all(parameter.grad is None for parameter in lora.base_layer.parameters())


def test_without_the_adapter_it_is_the_base_to_the_bit() -> None:
    lora, x = layer(True), rows(8)
    with_adapter = lora(x)
    lora.enable_adapters(False)
    assert torch.equal(lora(x), lora.base_layer(x))
    lora.enable_adapters(True)
    assert torch.equal(lora(x), with_adapter) and not torch.equal(with_adapter, lora.base_layer(x))


# --- in a run ---


def test_what_cannot_be_fused_stays_peft_s_and_is_named(jobs: Jobs, tmp_path: Path) -> None:
    cases = {
        "dropout": {"adapter": {**LORA, "dropout": 0.1}},
        "DoRA, PiSSA or OLoRA": {"adapter": {**LORA, "use_dora": True}},
        "base in fewer bits": {"adapter": LORA, "base_quantization": {"kind": "int8"}},
        "convolution": {"adapter": {**LORA, "conv_rank": 2}},
    }
    for number, (reason, settings) in enumerate(cases.items()):
        there = started(jobs(tmp_path / str(number), **{**PLAIN, **settings}))
        layers = [m for m in there.trained.networks.unet.modules() if isinstance(m, Linear)]
        fused = [m for m in layers if isinstance(m, FusedLinear)]
        assert bool(fused) == (reason == "convolution"), reason
        (note,) = there.trained.notes
        assert note.startswith("training.fused_lora: ") and f"by peft instead: {reason} (" in note


def test_other_adapters_are_not_spoken_of(jobs: Jobs, tmp_path: Path) -> None:
    there = started(jobs(tmp_path, **{**PLAIN, "adapter": {"kind": "lokr", "rank": 2}}))
    assert there.trained.notes == ()


@pytest.mark.ci
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_checkpointing": True},
        {"objective": FROM_BASE},
        {"text_encoders": {}, "adapter": {**LORA, "alpha": 8, "targets": "all-linear"}},
    ],
    ids=["plain", "checkpointing", "asks the base", "texts"],
)
def test_a_run_s_gradients_are_peft_s(jobs: Jobs, tmp_path: Path, settings: dict[str, Any]) -> None:
    found = {}
    for fused in (True, False):
        job = jobs(tmp_path / str(fused), **{**PLAIN, **settings}, fused_lora=fused)
        job = job.model_copy(update={"text": None}) if "text_encoders" in settings else job
        there = started(job)
        assert any(isinstance(m, FusedLinear) for m in there.trained.networks.unet.modules()) == fused
        assert there.trained.notes == ()
        found[fused] = backward(there)
    assert_alike(found[True][0], found[False][0])
    assert found[True][1] <= found[False][1], "no more is kept"


@pytest.mark.ci
def test_a_run_ends_with_the_same_files_and_may_change_over(jobs: Jobs, tmp_path: Path) -> None:
    """Accumulated over passes; what is written has the same names, and weights equal but for rounding."""
    settings: dict[str, Any] = {**PLAIN, "accumulation_steps": 2, "max_steps": 4}
    fused, plain = (jobs(tmp_path / str(on), **settings, fused_lora=on) for on in (True, False))
    assert run(fused) and run(plain)
    for ours, theirs in zip(history(fused), history(plain), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert files(fused.out).keys() == files(plain.out).keys()
    changed = jobs(tmp_path / "True", **{**settings, "max_steps": 6}, fused_lora=False)
    assert run(changed.model_copy(update={"override": ("training.fused_lora",)}))
