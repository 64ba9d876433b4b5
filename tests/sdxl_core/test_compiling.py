"""What is compiled computes the same, as often as it has to be compiled and no oftener; and so does another layout."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from sdxl_core import compiling
from sdxl_core.compiling import MOST_SIZES, refuse_many_sizes, require_compiler
from sdxl_core.errors import UserError
from sdxl_core.miniature.networks import build_unet
from sdxl_core.model import lay_out_channels_last
from sdxl_core.networks import BLOCKS
from sdxl_core.run import Run
from sdxl_core.training_config import Compile, TrainingConfig
from sdxl_core.validation import evaluating
from tests.sdxl_core.jobs import LORA, Jobs, files, history, run
from tests.sdxl_core.test_memory_saving import FROM_BASE, PLAIN, assert_alike, backward, started

CPU = torch.device("cpu")
Graphs = list[torch.fx.GraphModule]
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": LORA},
    "lora by peft": {"adapter": LORA, "fused_lora": False},
    "convolutions": {"adapter": {**LORA, "conv_rank": 2}},
    "pissa": {"adapter": {**LORA, "init": "pissa"}},
    "oft": {"adapter": {"kind": "oft"}},
    "full": {"adapter": {"kind": "full"}},
    "8 bits": {"adapter": LORA, "base_quantization": {"kind": "int8"}},
    "bf16": {"adapter": LORA, "precision": "bf16"},
}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    """Every graph that is captured; it is run as it was captured, by torch's own operations."""
    found: Graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", backend)
    yield found
    torch._dynamo.reset()


def gradients(there: Run) -> dict[str, torch.Tensor]:
    return backward(there)[0]


@pytest.mark.parametrize(
    "name", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ADAPTERS if name != "lora")]
)
def test_blocks_compute_the_same(jobs: Jobs, tmp_path: Path, graphs: Graphs, name: str) -> None:
    settings = {**PLAIN, **ADAPTERS[name]}
    expected = gradients(started(jobs(tmp_path / "plain", **settings)))
    assert graphs == []
    there = started(jobs(tmp_path, **settings, compile="blocks"))
    assert_alike(gradients(there), expected)
    assert 0 < len(graphs) <= len([m for m in there.trained.networks.unet.modules() if isinstance(m, BLOCKS)])


@pytest.mark.ci
@pytest.mark.parametrize("name", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "bf16"))])
def test_the_whole_unet_is_one_graph_and_computes_the_same(
    jobs: Jobs, tmp_path: Path, graphs: Graphs, name: str
) -> None:
    settings = {**PLAIN, **ADAPTERS[name]}
    expected = gradients(started(jobs(tmp_path / "plain", **settings)))
    assert_alike(gradients(started(jobs(tmp_path, **settings, compile="unet"))), expected)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"gradient_checkpointing": True}, {"objective": FROM_BASE}], ids=["again", "base"]
)
def test_blocks_may_be_computed_again_and_asked_without_the_adapter(
    jobs: Jobs, tmp_path: Path, graphs: Graphs, settings: dict[str, Any]
) -> None:
    settings = {**PLAIN, **settings}
    expected = gradients(started(jobs(tmp_path / "plain", **settings)))
    assert_alike(gradients(started(jobs(tmp_path, **settings, compile="blocks"))), expected)
    assert graphs


@pytest.mark.slow
def test_gradients_through_torch_s_own_differentiation_of_graphs(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As inductor takes them, forward and backward captured in one."""
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    expected = gradients(started(jobs(tmp_path / "plain", **PLAIN)))
    assert_alike(gradients(started(jobs(tmp_path, **PLAIN, compile="blocks"))), expected)
    torch._dynamo.reset()


@pytest.mark.ci
def test_each_size_is_compiled_once_and_blocks_of_one_form_together(jobs: Jobs, tmp_path: Path, graphs: Graphs) -> None:
    there = started(jobs(tmp_path, **PLAIN, compile="blocks"))
    batch = there.data.batch(0, range(2))
    small = batch.map(lambda tensor: tensor[..., :8, :8] if tensor.dim() == 4 else tensor)
    counts = []
    for each in (batch, batch, small, batch, small):
        there.objective(there.state.denoiser, each).loss.backward()  # type: ignore[no-untyped-call]
        counts.append(len(graphs))
    first, again, other, *rest = counts
    assert again == first and other == 2 * first and set(rest) == {other}


def test_held_out_pictures_and_drawings_are_not_compiled_for(jobs: Jobs, tmp_path: Path, graphs: Graphs) -> None:
    there = started(jobs(tmp_path, **PLAIN, compile="unet"))
    with evaluating(there.trained.networks), torch.no_grad():
        there.objective(there.state.denoiser, there.data.batch(0, range(2)))
    assert graphs == []


@pytest.mark.ci
@pytest.mark.parametrize("chosen", ["blocks", pytest.param("unet", marks=pytest.mark.slow)])
def test_names_stay_and_a_copy_computes_with_its_own_weights(
    jobs: Jobs, tmp_path: Path, graphs: Graphs, chosen: str
) -> None:
    """A copy that called the original would be a base that learns."""
    plain, compiled = (started(jobs(tmp_path / c, **PLAIN, compile=c)) for c in ("none", chosen))
    unet: Any = compiled.trained.networks.unet
    assert unet.state_dict().keys() == plain.trained.networks.unet.state_dict().keys()
    added = {"text_embeds": torch.zeros(2, 64), "time_ids": torch.zeros(2, 6)}
    given = (torch.ones(2, 4, 16, 16), torch.tensor([1, 2]), torch.ones(2, 77, 128))
    copied = copy.deepcopy(unet)
    with torch.no_grad():
        before = copied(*given, added_cond_kwargs=added).sample
        assert torch.equal(unet(*given, added_cond_kwargs=added).sample, before)
        for parameter in unet.parameters():
            parameter.mul_(0.5)
        assert torch.equal(copied(*given, added_cond_kwargs=added).sample, before)
        assert not torch.equal(unet(*given, added_cond_kwargs=added).sample, before)
    assert graphs


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["blocks", "unet"])
def test_a_compiled_run_goes_on_bit_for_bit_and_along_the_same_curve(jobs: Jobs, tmp_path: Path, chosen: str) -> None:
    """By inductor itself; the stated tolerance of docs/training/speed.md."""
    torch._dynamo.reset()
    settings: dict[str, Any] = {**PLAIN, "compile": chosen, "channels_last": True}
    straight, parts = (jobs(tmp_path / where, **settings, max_steps=6) for where in ("straight", "parts"))
    assert run(straight)
    assert run(jobs(tmp_path / "parts", **settings, max_steps=3)) and run(parts)
    assert files(straight.out) == files(parts.out)
    plain = jobs(tmp_path / "plain", **PLAIN, max_steps=6)
    assert run(plain)
    for ours, theirs in zip(history(straight), history(plain), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


# --- refusals ---


def test_a_missing_compiler_is_told_before_anything_loads(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(compile="blocks")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler .* for cpu: install it, or set training.compile=none"):
        require_compiler(config, CPU)
    require_compiler(TrainingConfig(), CPU)
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package triton for cuda"):
        require_compiler(config, torch.device("cuda"))


def test_more_sizes_than_are_reasonable_are_refused() -> None:
    sizes = [f"{n}x8" for n in range(MOST_SIZES + 1)]
    refuse_many_sizes(TrainingConfig(), sizes)
    refuse_many_sizes(TrainingConfig(compile="unet"), sizes[1:] * 2)
    with pytest.raises(UserError, match=rf"expected at most {MOST_SIZES} sizes of pictures.* got {MOST_SIZES + 1}"):
        refuse_many_sizes(TrainingConfig(compile="unet"), sizes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compile": "unet", "gradient_checkpointing": True}, "take blocks"),
        ({"compile": "blocks", "adapter": {"use_dora": True}}, "take a plain LoRA"),
        ({"compile": "blocks", "adapter": {"kind": "lokr"}}, "take a plain LoRA"),
        ({"compile": "blocks", "adapter": {"kind": "loha"}}, "take a plain LoRA"),
        ({"compile": "blocks", "attention": "xformers"}, "training.attention=auto"),
        ({"channels_last": True, "adapter": {"kind": "full"}}, "training.channels_last=false"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate(settings)


def test_all_of_it_decides_bits_and_may_be_overridden() -> None:
    from sdxl_core.overrides import OVERRIDABLE

    for name, other in (("compile", "unet"), ("channels_last", True), ("fused_lora", False)):
        assert TrainingConfig().lasting[name] != TrainingConfig.model_validate({name: other}).lasting[name]
        assert f"training.{name}" in OVERRIDABLE
    assert set(get_args(Compile)) == {"none", "blocks", "unet"}


# --- layout ---


def test_channels_last_is_another_layout_of_the_same_numbers(jobs: Jobs, tmp_path: Path) -> None:
    """Of frozen convolutions; trained weights stay as files and optimizers have them."""
    settings = {**PLAIN, "adapter": {**LORA, "conv_rank": 2}}
    expected = gradients(started(jobs(tmp_path / "plain", **settings)))
    there = started(jobs(tmp_path, **settings, channels_last=True))
    for name, gradient in gradients(there).items():
        assert float((gradient - expected[name]).norm()) <= 1e-4 * float(expected[name].norm()) + 1e-7, name
    frozen = [p for p in there.trained.networks.unet.parameters() if p.dim() == 4 and not p.requires_grad]
    assert frozen and all(p.is_contiguous(memory_format=torch.channels_last) for p in frozen)
    assert all(parameter.is_contiguous() for parameter in there.state.parameters)


def test_activations_follow_the_weights_layout() -> None:
    unet = build_unet().requires_grad_(False)
    lay_out_channels_last(unet)
    seen: list[bool] = []
    last = torch.channels_last
    for module in unet.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):  # a single pixel has no layout
            module.register_forward_hook(lambda m, args, out: seen.append(out.is_contiguous(memory_format=last)))
    added = {"text_embeds": torch.zeros(2, 64), "time_ids": torch.zeros(2, 6)}
    x = torch.zeros(2, 4, 16, 16)
    unet(x, torch.tensor([1, 2]), torch.zeros(2, 77, 128), added_cond_kwargs=added)
    assert seen and all(seen)
