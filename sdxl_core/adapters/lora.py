"""Low-rank adaptation, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig as PeftLoraConfig
from torch import nn

from sdxl_core.export import ADAPTER_NAME, DIFFUSERS_FILE, LORA_TARGETS, export_lora
from sdxl_core.training_config import LoraConfig


class Lora:
    """A LoRA on the UNet (Hu et al. 2021, arXiv:2106.09685: A Gaussian, B zero)."""

    def __init__(self, config: LoraConfig) -> None:
        self.config = config

    def attach(self, unet: UNet2DConditionModel, seed: int) -> dict[str, nn.Parameter]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet.add_adapter(
                PeftLoraConfig(
                    r=self.config.rank,
                    lora_alpha=self.config.scaled_alpha,
                    lora_dropout=self.config.dropout,
                    init_lora_weights="gaussian",
                    target_modules=LORA_TARGETS[self.config.targets],
                ),
                adapter_name=ADAPTER_NAME,
            )
        trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
        for parameter in trained.values():
            parameter.data = parameter.data.float()
        return trained

    def export(self, unet: UNet2DConditionModel, out: Path, provenance: Mapping[str, str]) -> None:
        export_lora(unet, self.config, out, provenance)

    @staticmethod
    def load(pipeline: StableDiffusionXLPipeline, trained: Path) -> None:
        load_lora(pipeline, trained / DIFFUSERS_FILE)


def load_lora(pipeline: StableDiffusionXLPipeline, file: Path) -> None:
    """Put a LoRA file, diffusers' or kohya's, into a pipeline."""
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
