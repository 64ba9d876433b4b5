"""A base in fewer bits: how far it is from the base, that adapters learn on it, and that nothing of it is exported."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from accelerate.state import AcceleratorState
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from sdxl_core.export import DIFFUSERS_FILE, KOHYA_FILE
from sdxl_core.miniature.networks import build_unet
from sdxl_core.quantization import FORMATS, QuantizedLinear, quantize_frozen
from sdxl_core.quantization.nf4 import BLOCK, CODE
from sdxl_core.run import set_up
from sdxl_core.training_config import QuantizationConfig, TrainingConfig
from tests.sdxl_core.jobs import LORA, Jobs, files, history, run

PLAIN: dict[str, Any] = {"objective": {"kind": "diffusion"}, "ema": None, "adapter": LORA}
BITS = {"int8": 8, "fp8": 8, "nf4": 4}


def weight(outputs: int = 96, inputs: int = 128) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) * 0.02


def test_every_format_is_registered_and_checked_here() -> None:
    kinds = set(get_args(QuantizationConfig.model_fields["kind"].annotation))
    assert kinds == set(FORMATS) == set(BITS)


@pytest.mark.parametrize("kind", FORMATS)
def test_weights_come_back_as_near_as_the_bits_allow(kind: str) -> None:
    """int8: half a step of a row's largest / 127; fp8: half of 2^-3 of the number itself, above its subnormals; nf4:
    half of the widest gap between neighbours times a block's largest."""
    W = weight()
    form = FORMATS[kind]
    error = (form.dequantize(form.quantize(W), W.shape, torch.float32) - W).abs()
    row = W.abs().amax(dim=1, keepdim=True)
    block = W.abs().view(-1, BLOCK).amax(dim=1, keepdim=True).expand(-1, BLOCK).reshape(W.shape)
    gap = max(b - a for a, b in pairwise(CODE))
    bound = {"int8": row / 254, "fp8": W.abs() / 16 + row / 448 * 2**-10, "nf4": block * gap / 2}[kind]
    assert bool((error <= bound * 1.0001).all()) and float(error.max()) > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_what_a_format_can_say_it_says_exactly(kind: str) -> None:
    """Quantising the quantised changes nothing."""
    W, form = weight(), FORMATS[kind]
    once = form.dequantize(form.quantize(W), W.shape, torch.float32)
    assert torch.allclose(form.dequantize(form.quantize(once), W.shape, torch.float32), once, rtol=1e-6)


def test_nf4_takes_the_nearest_of_its_numbers() -> None:
    """Held against a search through all of them; and sizes that fill no whole block come back, too."""
    W, form = weight(5, 37), FORMATS["nf4"]
    flat = functional.pad(W.flatten(), (0, -W.numel() % BLOCK)).view(-1, 1, BLOCK)
    scale = flat.abs().amax(dim=2, keepdim=True)
    choices = torch.tensor(CODE).view(1, -1, 1) * scale
    best = (choices - flat).abs().argmin(dim=1, keepdim=True)
    expected = choices.expand(-1, -1, BLOCK).gather(1, best).flatten()[: W.numel()].view(W.shape)
    assert torch.allclose(form.dequantize(form.quantize(W), W.shape, torch.float32), expected)


def test_nf4_and_int8_are_bitsandbytes_own() -> None:
    bnb = pytest.importorskip("bitsandbytes.functional")
    W = weight()
    packed, state = bnb.quantize_4bit(W, quant_type="nf4", blocksize=BLOCK)
    ours = FORMATS["nf4"].quantize(W)
    assert torch.equal(ours["kept"], packed.flatten())
    assert torch.equal(
        FORMATS["nf4"].dequantize(ours, W.shape, torch.float32), bnb.dequantize_4bit(packed, state).view(W.shape)
    )
    rows, largest, _ = bnb.int8_vectorwise_quant(W)
    ours = FORMATS["int8"].quantize(W)
    assert torch.equal(ours["kept_OI"], rows) and torch.equal(ours["scale_O1"][:, 0], largest / 127)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_product_with_what_comes_back_and_keeps_nothing(kind: str, bias: bool) -> None:
    linear = nn.Linear(128, 96, bias=bias).requires_grad_(False)
    layer = QuantizedLinear(linear, FORMATS[kind])
    x = torch.randn(3, 5, 128, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = layer(x)
    assert kept == []
    expected = functional.linear(x, layer.weight, linear.bias)
    assert torch.allclose(out, expected, atol=1e-6)
    [ours], [theirs] = (torch.autograd.grad(y.square().sum(), x) for y in (out, expected))
    assert torch.allclose(ours, theirs, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16 == functional.linear(x, layer.weight).dtype


@pytest.mark.parametrize("kind", FORMATS)
def test_it_is_the_transformers_frozen_layers_that_become_small(kind: str) -> None:
    unet = build_unet().requires_grad_(False)
    before = {name: module.weight.nbytes for name, module in unet.named_modules() if type(module) is nn.Linear}
    quantize_frozen(unet, QuantizationConfig(kind=kind), torch.device("cpu"))  # type: ignore[arg-type]
    after = {name for name, module in unet.named_modules() if isinstance(module, QuantizedLinear)}
    assert after == {name for name in before if ".attentions." in name}
    assert not any(name.startswith(("time_embedding", "add_embedding")) for name in after)
    kept = sum(buffer.nbytes for name, buffer in unet.named_buffers())
    assert kept < 1.2 * BITS[kind] / 32 * sum(before[name] for name in after)


@pytest.mark.ci
@pytest.mark.parametrize("kind", FORMATS)
def test_adapters_learn_on_it_and_are_exported_as_any_other(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    """float32 adapters on a frozen base; the files hold the same tensors as without; a resumed run ends alike."""
    settings = {**PLAIN, "base_quantization": {"kind": kind}}
    job, plain = jobs(tmp_path / "q", **settings), jobs(tmp_path / "plain", **PLAIN)
    assert run(job) and run(plain)
    for file in (DIFFUSERS_FILE, KOHYA_FILE):
        ours, theirs = load_file(job.out / file), load_file(plain.out / file)
        assert {n: (t.shape, t.dtype) for n, t in ours.items()} == {n: (t.shape, t.dtype) for n, t in theirs.items()}
        assert all(bool(t.abs().max() > 0) for t in ours.values())
    for ours, theirs in zip(history(job), history(plain), strict=True):
        assert ours["loss"] != theirs["loss"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel={"int8": 0.02, "fp8": 0.1, "nf4": 0.3}[kind])
    assert run(jobs(tmp_path / "halves", **settings, max_steps=3))
    halves = jobs(tmp_path / "halves", **settings)
    assert run(halves)
    assert files(halves.out) == files(job.out)


def test_the_base_s_weights_are_those_of_the_checkpoint_in_fewer_bits(jobs: Jobs, tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    there = set_up(jobs(tmp_path, **PLAIN, base_quantization={"kind": "int8"}))
    stored = load_file(jobs.model / "unet" / "diffusion_pytorch_model.safetensors")
    layers = {n: m for n, m in there.trained.networks.unet.named_modules() if isinstance(m, QuantizedLinear)}
    assert any("base_layer" in name for name in layers), "below adapters, too"
    for name, layer in layers.items():
        W = stored[name.replace(".base_layer", "") + ".weight"]
        assert float((layer.weight - W).abs().max()) <= float(W.abs().max()) / 254 * 1.0001
    assert all(parameter.dtype == torch.float32 for parameter in there.state.parameters)


def test_what_is_trained_is_not_quantised() -> None:
    with pytest.raises(ValidationError, match="base_quantization is for frozen weights"):
        TrainingConfig.model_validate({"adapter": {"kind": "full"}, "base_quantization": {"kind": "int8"}})
