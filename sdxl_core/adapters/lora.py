"""Low-rank adaptation, by peft."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from sdxl_core.export import ADAPTER_NAME, DIFFUSERS_FILE, export_lora, lora_targets
from sdxl_core.networks import Base, Networks
from sdxl_core.training_config import LoraConfig


class Lora:
    """A LoRA on every part (Hu et al. 2021, arXiv:2106.09685: A Gaussian, B zero)."""

    def __init__(self, config: LoraConfig) -> None:
        self.config = config

    def attach(self, part: str, module: nn.Module, seed: int) -> dict[str, nn.Parameter]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = PeftLoraConfig(
                r=self.config.rank,
                lora_alpha=self.config.scaled_alpha,
                lora_dropout=self.config.dropout,
                init_lora_weights="gaussian",
                target_modules=lora_targets(part, self.config.targets),
            )
            inject_adapter_in_model(config, module, ADAPTER_NAME)
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        for parameter in trained.values():
            parameter.data = parameter.data.float()
        return trained

    def base(self, networks: Networks, dtype: torch.dtype) -> Base:
        layers = [m for part in networks.parts.values() for m in part.modules() if isinstance(m, BaseTunerLayer)]

        @contextmanager
        def base() -> Iterator[Networks]:
            _enable(layers, False)
            try:
                yield networks
            finally:
                _enable(layers, True)

        return base

    def export(self, parts: Mapping[str, nn.Module], out: Path, provenance: Mapping[str, str]) -> None:
        export_lora(parts, self.config, out, provenance)

    @staticmethod
    def load(pipeline: StableDiffusionXLPipeline, trained: Path) -> None:
        load_lora(pipeline, trained / DIFFUSERS_FILE)


def _enable(layers: list[BaseTunerLayer], enabled: bool) -> None:
    for layer in layers:
        layer.enable_adapters(enabled)


def load_lora(pipeline: StableDiffusionXLPipeline, file: Path) -> None:
    """Put a LoRA file, diffusers' or kohya's, into a pipeline."""
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
