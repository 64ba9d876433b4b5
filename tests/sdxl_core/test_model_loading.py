"""Loading takes every weight from the checkpoint's own safetensors, or refuses; it never makes one up, nor runs any."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdxl_core.config import SamplingConfig
from sdxl_core.errors import UserError
from sdxl_core.model import load_component_unet, load_pipeline, load_unet, load_vae

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"
Tensors = dict[str, Tensor]


class Payload:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def lacking(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name != "conv_out.weight" and "quant_conv" not in name}


def more(tensors: Tensors) -> Tensors:
    return {**tensors, "surplus.weight": torch.zeros(1)}


def reshaped(tensors: Tensors) -> Tensors:
    return {name: value[..., None].contiguous() for name, value in tensors.items()}


@pytest.fixture
def checkpoint(random_sdxl: Path, tmp_path: Path) -> Path:
    return shutil.copytree(random_sdxl, tmp_path / "sdxl")


@pytest.mark.parametrize("change", [lacking, more, reshaped])
@pytest.mark.parametrize("name", ["unet", "vae"])
def test_weights_of_another_model_are_refused(
    checkpoint: Path, name: str, change: Callable[[Tensors], Tensors]
) -> None:
    weights = checkpoint / name / WEIGHTS
    save_file(change(load_file(weights)), weights)
    with pytest.raises(UserError, match=f"{name}: expected "):
        load_unet(checkpoint) if name == "unet" else load_vae(checkpoint / name, CPU)
    with pytest.raises(UserError, match=f"{name}: expected "):
        load_pipeline(checkpoint, None, SamplingConfig(), CPU)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_pickle_is_never_opened(checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    weights = checkpoint / "unet" / WEIGHTS
    weights.unlink()
    weights.with_suffix(suffix).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(UserError, match="unet: expected weights of a UNet2DConditionModel"):
        load_component_unet(checkpoint / "unet", torch.float32)
    assert not (tmp_path / "ran").exists()
    pickle.loads(weights.with_suffix(suffix).read_bytes())
    assert (tmp_path / "ran").exists(), "the payload works"
