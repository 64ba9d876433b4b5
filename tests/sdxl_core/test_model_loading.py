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
from sdxl_core.text_encoders import TextEncoders

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
    missing = ("conv_out.weight", "quant_conv", "layers.0.mlp")
    return {name: value for name, value in tensors.items() if not any(part in name for part in missing)}


def more(tensors: Tensors) -> Tensors:
    return {**tensors, "surplus.weight": torch.zeros(1)}


def reshaped(tensors: Tensors) -> Tensors:
    return {name: value[..., None].contiguous() for name, value in tensors.items()}


LOADING: dict[str, Callable[[Path], object]] = {
    "unet": load_unet,
    "vae": lambda model: load_vae(model / "vae", CPU),
    "text_encoder": lambda model: TextEncoders.load(model, CPU),
    "text_encoder_2": lambda model: TextEncoders.load(model, CPU),
}


@pytest.fixture
def checkpoint(random_sdxl: Path, tmp_path: Path) -> Path:
    return shutil.copytree(random_sdxl, tmp_path / "sdxl")


@pytest.mark.parametrize("change", [lacking, more, reshaped])
@pytest.mark.parametrize("name", LOADING)
def test_weights_of_another_model_are_refused(
    checkpoint: Path, name: str, change: Callable[[Tensors], Tensors]
) -> None:
    [weights] = (checkpoint / name).glob("*.safetensors")
    save_file(change(load_file(weights)), weights, {"format": "pt"})
    with pytest.raises(UserError, match=f"{name}: expected "):
        LOADING[name](checkpoint)
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
