"""No adapter: the UNet's own weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn

from sdxl_core.model import load_component_unet
from sdxl_core.tensor_files import write_tensors
from sdxl_core.training_config import FullConfig

FOLDER = "unet"


class FullWeights:
    """All weights of the UNet. The export is a diffusers component folder, `unet/`, in the format trained in."""

    def __init__(self, config: FullConfig) -> None:
        self.config = config

    def attach(self, unet: UNet2DConditionModel, seed: int) -> dict[str, nn.Parameter]:
        unet.requires_grad_(True)
        return dict(unet.named_parameters())

    def export(self, unet: UNet2DConditionModel, out: Path, provenance: Mapping[str, str]) -> None:
        folder = out / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in unet.config.items() if name != "_name_or_path"}
        described = {"_class_name": type(unet).__name__, **settings}
        text = json.dumps(described, indent=2, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        weights = folder / "diffusion_pytorch_model.safetensors"
        write_tensors(weights, dict(unet.state_dict()), {"format": "pt", **provenance})

    @staticmethod
    def load(pipeline: StableDiffusionXLPipeline, trained: Path) -> None:
        unet = load_component_unet(trained / FOLDER, pipeline.unet.dtype)
        pipeline.unet = unet.to(pipeline.device)
