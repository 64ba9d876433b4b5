"""Adding up, cutting down and extracting, against dense matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdxl_core.errors import UserError
from sdxl_core.weight_files.architecture import PARTS, Architecture
from sdxl_core.weight_files.components import Checkpoint
from sdxl_core.weight_files.extract import extract
from sdxl_core.weight_files.lora import LoraModule
from sdxl_core.weight_files.low_rank import Cut, added_up, nearest, resized
from sdxl_core.weight_files.merge import merged
from tests.sdxl_core.weight_files.conftest import MakeLora

CPU = torch.device("cpu")
SHAPES = {"tall": (40, 12), "wide": (12, 40), "square": (16, 16), "kernel": (12, 6, 3, 3), "pointwise": (12, 6, 1, 1)}


def random_module(shape: tuple[int, ...], rank: int, alpha: float = 3.0) -> LoraModule:
    out, *rest = shape
    down, up = torch.randn(rank, *rest), torch.randn(out, rank, *[1] * (len(rest) - 1))
    return LoraModule(down, up, alpha)


def dense_best(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, float]:
    """The nearest matrix of a rank, and the share of the squared norm that it holds, by a full SVD."""
    left, singular, right = torch.linalg.svd(matrix.double().flatten(1), full_matrices=False)
    best = (left[:, :rank] * singular[:rank]) @ right[:rank]
    share = float(singular[:rank].square().sum() / singular.square().sum())
    return best.reshape(matrix.shape).float(), share


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_cutting_down_is_the_best_there_is(shape: tuple[int, ...], rank: int) -> None:
    torch.manual_seed(0)
    module = random_module(shape, 6)
    best, share = dense_best(module.delta(), rank)
    cut, retained = resized(module, Cut(rank=rank))
    assert (cut.rank, cut.alpha, cut.weight_shape) == (rank, rank, shape)
    torch.testing.assert_close(cut.delta(), best, rtol=1e-4, atol=1e-4)
    assert retained.share == pytest.approx(share)
    found, retained = nearest(module.delta(), Cut(rank=rank))
    torch.testing.assert_close(found.delta(), best, rtol=1e-4, atol=1e-4)
    assert retained.share == pytest.approx(share)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_difference_of_low_rank_is_found_exactly(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = random_module(shape, 3)
    found, retained = nearest(module.delta(), Cut(rank=3))
    torch.testing.assert_close(found.delta(), module.delta(), rtol=1e-5, atol=1e-5)
    assert retained.share == pytest.approx(1, abs=1e-9)
    larger, _ = nearest(module.delta(), Cut(rank=5))  # more than there is does no harm
    torch.testing.assert_close(larger.delta(), module.delta(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("energy", [0.2, 0.6, 0.9, 1.0])
def test_the_fewest_directions_with_so_much_energy_are_kept(energy: float) -> None:
    torch.manual_seed(0)
    module = random_module((40, 12), 6)
    cut, retained = resized(module, Cut(energy=energy))
    assert retained.share >= energy - 1e-12
    assert cut.rank == 1 or dense_best(module.delta(), cut.rank - 1)[1] < energy
    assert resized(module, Cut(rank=2, energy=energy))[0].rank <= 2


def test_nothing_stays_nothing() -> None:
    module = LoraModule(torch.randn(4, 6), torch.zeros(5, 4), 4.0)
    for cut, retained in (resized(module, Cut(rank=2)), nearest(module.delta(), Cut(energy=0.9))):
        assert not bool(cut.delta().any()) and retained.share == 1


def test_loras_add_up_exactly(make_lora: MakeLora) -> None:
    """Of different ranks and alphas, on modules that only one of them has too."""
    a, b = make_lora(1), make_lora(2, parts=("unet",), within="to_")
    both = added_up([(a, 0.7), (b, -0.3)])
    for part, name, module in both:
        expected = sum(
            weight * lora.modules[part][name].delta()
            for lora, weight in ((a, 0.7), (b, -0.3))
            if name in lora.modules.get(part, {})
        )
        torch.testing.assert_close(module.delta(), expected, rtol=1e-5, atol=1e-6)
    assert {(part, name) for part, name, _ in both} == {(part, name) for part, name, _ in a}


def test_merging_and_extracting_are_inverse(
    make_lora: MakeLora, architecture: Architecture, lopsided_sdxl: Path
) -> None:
    base = Checkpoint.open(lopsided_sdxl)
    lora = make_lora()
    found = extract(base, merged(base, [(lora, 1)]), architecture, Cut(rank=3), Cut(rank=3), CPU)
    assert {(part, name) for part, name, _ in found.lora} == {(part, name) for part, name, _ in lora}
    for part, name, module in found.lora:
        torch.testing.assert_close(module.delta(), lora.modules[part][name].delta(), rtol=1e-3, atol=1e-4)
    assert found.overall.share == pytest.approx(1, abs=1e-6)
    without = extract(base, merged(base, [(lora, 1)]), architecture, Cut(rank=3), None, CPU)
    kernels = [name for _, name, module in lora if module.down.ndim == 4 and module.down.shape[2] == 3]
    assert kernels and not any(name in kernels for _, name, _ in without.lora)
    assert without.overall.share < found.overall.share and without.left_out.total > 0


def test_what_no_lora_can_hold_is_counted(
    make_lora: MakeLora, architecture: Architecture, lopsided_sdxl: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    base = Checkpoint.open(lopsided_sdxl)
    merged(base, [(make_lora(within="attn2.to_q"), 1)]).write_folder(tmp_path / "tuned", None, {"format": "pt"})
    file = tmp_path / "tuned" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_norm_out.bias"] += 2.0
    save_file(tensors, file, {"format": "pt"})
    found = extract(base, Checkpoint.open(tmp_path / "tuned"), architecture, Cut(rank=3), None, CPU)
    assert found.left_out.total == pytest.approx(4.0 * len(tensors["conv_norm_out.bias"]), rel=1e-4)
    assert {name for _, name, _ in found.lora} == {n for n in architecture.modules["unet"] if "attn2.to_q" in n}


def test_models_that_do_not_fit_each_other_are_refused(
    architecture: Architecture, lopsided_sdxl: Path, random_sdxl: Path
) -> None:
    base = Checkpoint.open(lopsided_sdxl)
    with pytest.raises(UserError, match="--tuned: unet: expected the tensors of --base"):
        extract(base, Checkpoint.open(random_sdxl), architecture, Cut(rank=1), None, CPU)
    with pytest.raises(UserError, match="no difference in any weight"):
        extract(base, base, architecture, Cut(rank=1), None, CPU)


def test_a_dora_is_merged_alone_and_not_added_up(make_lora: MakeLora, lopsided_sdxl: Path) -> None:
    dora, plain = make_lora(parts=("unet",), dora=True), make_lora(parts=("unet",))
    with pytest.raises(UserError, match="expected one DoRA alone"):
        merged(Checkpoint.open(lopsided_sdxl), [(dora, 1), (plain, 1)])
    with pytest.raises(UserError, match="expected a LoRA without magnitudes"):
        dora.refuse_magnitudes("--lora x")
    plain.refuse_magnitudes("--lora x")
    assert set(PARTS) >= set(dora.modules)
