"""What saves memory changes no number but by rounding, saves what it says, and says what it cannot do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from accelerate.state import AcceleratorState
from pydantic import ValidationError
from torch import nn

import sdxl_core.validation
from sdxl_core.attention import ATTENTIONS
from sdxl_core.errors import UserError
from sdxl_core.memory_savings import advice, savings_left
from sdxl_core.networks import Networks, offloaded
from sdxl_core.run import Run, set_up
from sdxl_core.text_encoders import TextEncoders
from sdxl_core.train import train
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import Attention, TrainingConfig
from sdxl_core.validation import Validation
from tests.sdxl_core.jobs import LORA, Jobs, files, history, run

PLAIN: dict[str, Any] = {"objective": {"kind": "diffusion"}, "ema": None, "adapter": LORA}
FROM_BASE = {"kind": "prior_prediction", "class_prompt": "a photo of a person"}


def started(job: TrainJob) -> Run:
    AcceleratorState._reset_state(reset_partial_state=True)
    there = set_up(job)
    for network in there.trained.networks.parts.values():
        network.train()
    return there


def backward(there: Run) -> tuple[dict[str, torch.Tensor], int]:
    """-> gradients by name, and bytes of all different tensors that the forward pass keeps."""
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    torch.manual_seed(0)
    with torch.no_grad():  # B of a LoRA begins as zero, and A's gradient with it
        for parameter in there.state.parameters:
            parameter.add_(0.02)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = there.objective(there.state.denoiser, there.data.batch(0, range(2))).loss
    for network in there.trained.networks.parts.values():
        for weight in network.parameters():
            kept.pop(weight.untyped_storage().data_ptr(), None)  # is there anyway
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in there.state.trainable.items() if p.grad is not None}, size


def assert_alike(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], rtol=1e-3, atol=1e-6 * largest), name


@pytest.mark.ci
@pytest.mark.parametrize("adapter", [{**LORA, "dropout": 0.1}, {"kind": "full"}], ids=["lora", "full"])
@pytest.mark.parametrize("texts", [None, {}], ids=["unet", "texts"])
def test_the_more_blocks_are_computed_again_the_less_is_kept(
    jobs: Jobs, tmp_path: Path, adapter: dict[str, Any], texts: Any
) -> None:
    """And the gradients are those of all blocks kept, dropout's masks included."""
    settings = {**PLAIN, "adapter": adapter, "text_encoders": texts}
    sizes, reference = [], None
    for every in (None, 4, 2, 1):
        again = {"gradient_checkpointing": True, "checkpoint_every_blocks": every} if every else {}
        job = jobs(tmp_path, **settings, **again)
        job = job if texts is None else job.model_copy(update={"text": None})
        gradients, size = backward(started(job))
        sizes.append(size)
        reference = reference or gradients
        assert_alike(gradients, reference)
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    assert sizes[3] < 0.6 * sizes[0]


def test_blocks_are_chosen_among_those_that_are_computed_again() -> None:
    with pytest.raises(ValidationError, match="needs gradient_checkpointing: true"):
        TrainingConfig(checkpoint_every_blocks=2)


def test_checkpointing_can_change_within_a_run(jobs: Jobs, tmp_path: Path) -> None:
    assert run(jobs(tmp_path, **PLAIN, max_steps=2))
    job = jobs(tmp_path, **PLAIN, max_steps=4, gradient_checkpointing=True, attention="math")
    with pytest.raises(UserError, match=r"--override training\.attention --override training\.gradient_checkpointing"):
        run(job)
    assert run(job.model_copy(update={"override": ("training.gradient_checkpointing", "training.attention")}))
    straight = jobs(tmp_path / "straight", **PLAIN, max_steps=4)
    assert run(straight)
    for ours, theirs in zip(history(job), history(straight), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


# --- attention ---


def test_every_attention_is_registered() -> None:
    assert set(ATTENTIONS) == set(get_args(Attention))


@pytest.mark.ci
def test_attention_s_kernels_agree_and_plain_products_keep_the_scores(jobs: Jobs, tmp_path: Path) -> None:
    found = {}
    for attention in ("auto", "sdpa", "math"):
        job = jobs(tmp_path, **PLAIN, text_encoders={}, attention=attention).model_copy(update={"text": None})
        found[attention] = backward(started(job))
    for attention in ("sdpa", "math"):
        assert_alike(found[attention][0], found["auto"][0])
    assert found["sdpa"][1] == found["auto"][1] < found["math"][1]


def test_a_missing_package_is_told_before_anything_loads(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdxl_core.training_config.saving_memory.find_spec", lambda name: None)
    job = jobs(tmp_path, attention="xformers").model_copy(update={"model": tmp_path / "nowhere"})
    with pytest.raises(UserError, match=r"pip install -e '\.\[xformers\]'"):
        run(job)


def test_a_device_that_xformers_has_no_kernels_for_is_told_once(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As xformers itself does on a CPU; and the run is then, to the bit, one of torch's own kernels."""

    def refuse(*tensors: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("No operator found for `memory_efficient_attention_forward` with inputs:\n  ...")

    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    ops.memory_efficient_attention = refuse  # type: ignore[attr-defined]
    package.ops = ops  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr("sdxl_core.training_config.saving_memory.find_spec", lambda name: object())
    asked, plain = jobs(tmp_path / "a", **PLAIN, attention="xformers"), jobs(tmp_path / "b", **PLAIN)
    assert run(asked) and run(plain)
    said = [line for line in capsys.readouterr().out.splitlines() if "xformers" in line]
    assert len(said) == 1 and "no kernel for float32 on cpu" in said[0] and "(sdpa) is used instead" in said[0]
    assert history(asked) == history(plain)


# --- what waits elsewhere ---


class Placed(nn.Module):
    """Knows where it is, as there may be one device only."""

    place = torch.device("cuda")

    def to(self, device: torch.device) -> Placed:  # type: ignore[override]
        self.place = device
        return self


def test_the_base_s_copy_is_on_the_device_only_while_it_is_asked() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    kept = Networks(Placed(), TextEncoders(Placed(), Placed()))

    @contextmanager
    def base() -> Iterator[Networks]:
        yield kept

    def places() -> list[Any]:
        return [module.place for module in kept.parts.values()]

    moving = offloaded(base, cuda)
    assert places() == [cpu] * 3
    with moving() as there:
        assert there is kept and places() == [cuda] * 3
    assert places() == [cpu] * 3
    with pytest.raises(KeyError), moving():
        raise KeyError
    assert places() == [cpu] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_that_waits_leaves_the_gpu_s_memory(jobs: Jobs, tmp_path: Path) -> None:
    used = []
    for offload in (False, True):
        settings = {**PLAIN, "objective": FROM_BASE, "adapter": {"kind": "full"}, "offload_base": offload}
        there = started(jobs(tmp_path, "cuda", **settings))
        used.append(torch.cuda.memory_allocated())
        weights = sum(parameter.nbytes for parameter in there.trained.networks.unet.parameters())
        del there
    assert used[0] - used[1] == pytest.approx(weights, rel=0.1)


def test_where_the_base_waits_changes_no_bit(jobs: Jobs, tmp_path: Path) -> None:
    settings = {**PLAIN, "objective": FROM_BASE, "adapter": {"kind": "full"}, "learning_rate": 1e-4, "max_steps": 2}
    there, elsewhere = jobs(tmp_path / "a", **settings), jobs(tmp_path / "b", **settings, offload_base=True)
    assert run(there) and run(elsewhere)
    assert files(there.out) == files(elsewhere.out)


def test_there_has_to_be_a_copy_to_move(jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"only adapter: \{kind: full\} keeps a copy"):
        TrainingConfig(offload_base=True)
    with pytest.raises(UserError, match="objective diffusion asks no base"):
        run(jobs(tmp_path, **{**PLAIN, "adapter": {"kind": "full"}}, offload_base=True))


def test_between_validation_pictures_the_vae_is_away(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[str] = []
    draw = sdxl_core.validation.draw

    def drawing(*arguments: Any) -> Any:
        moves.append("draw")
        return draw(*arguments)

    def made(self: Validation, *arguments: Any) -> None:
        make(self, *arguments)
        vae = self.pipeline.vae
        move = vae.to
        monkeypatch.setattr(vae, "to", lambda device: (moves.append(str(device)), move(device))[1])
        self.device = torch.device("cpu", 0)  # the same, by a name of its own

    make = Validation.__init__
    monkeypatch.setattr(Validation, "__init__", made)
    monkeypatch.setattr(sdxl_core.validation, "draw", drawing)
    assert train_fresh(jobs(tmp_path, max_steps=2, validation={"every_steps": 1, "prompts": ["a photo", "a person"]}))
    assert moves == ["cpu:0", "draw", "cpu"] * 2


def train_fresh(job: TrainJob) -> bool:
    AcceleratorState._reset_state(reset_partial_state=True)
    return train(job)


# --- what is left to save ---


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"adapter": {"kind": "full"}, "objective": FROM_BASE},
        {"micro_batch_size": 8, "attention": "math"},
        {"gradient_checkpointing": True, "checkpoint_every_blocks": 3},
    ],
    ids=["lora", "full", "many rows", "some blocks"],
)
def test_savings_come_to_an_end_and_each_is_a_valid_change(settings: dict[str, Any]) -> None:
    config, seen = TrainingConfig.model_validate(settings), []
    rows = config.micro_batch_size * config.accumulation_steps
    while saving := next(savings_left(config), None):
        seen.append(str(saving))
        config = saving.applied(config)
        assert config.micro_batch_size * config.accumulation_steps == rows
    assert len(set(seen)) == len(seen)
    assert config.precision == "bf16" and config.gradient_checkpointing and config.attention == "auto"
    assert config.checkpoint_every_blocks == 1
    assert config.base_quantization is not None and config.base_quantization.kind == "nf4"


def test_advice_names_what_is_left_and_nothing_else() -> None:
    assert "training.gradient_checkpointing=true" in (said := advice(TrainingConfig())) and "bf16" in said
    saved = TrainingConfig.model_validate(
        {
            "gradient_checkpointing": True,
            "precision": "bf16",
            "micro_batch_size": 4,
            "base_quantization": {"kind": "nf4"},
        }
    )
    assert advice(saved) == "set a smaller transform.resolution_px"
