"""Pictures of a model in training, always from the same prompts and noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from torch import nn

from sdxl_core.config import SamplingConfig
from sdxl_core.model import SCHEDULERS, load_vae, vae_folder
from sdxl_core.prompts import prompt_seed
from sdxl_core.text import encode_prompts
from sdxl_core.training_config import ValidationConfig


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Without dropout inside, and as before afterwards."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


class Validation:
    """Samples from the live UNet. Prompts are encoded once, on creation; no text encoder stays in memory."""

    def __init__(
        self,
        config: ValidationConfig,
        sampling: SamplingConfig,
        model: Path,
        vae: Path | None,
        unet: UNet2DConditionModel,
        device: torch.device,
    ) -> None:
        self.config = config
        self.sampling = sampling
        self.unet = unet
        self.device = device
        self.text_BTE, self.pooled_BP = encode_prompts(model, config.prompts, device)
        self.pipeline = StableDiffusionXLPipeline(
            vae=load_vae(vae_folder(model, vae), device),
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            unet=unet,
            scheduler=SCHEDULERS[sampling.scheduler].from_pretrained(model, subfolder="scheduler"),
            add_watermarker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def pictures(self) -> list[Image.Image]:
        """One picture per validation prompt."""
        with evaluating(self.unet):
            return [self._picture(row) for row in range(1, len(self.text_BTE))]

    def _picture(self, row: int) -> Image.Image:
        seed = prompt_seed(self.config.seed, self.config.prompts[row - 1], 0)
        embeddings: dict[str, Any] = {
            "prompt_embeds": self.text_BTE[row : row + 1],
            "negative_prompt_embeds": self.text_BTE[:1],
            "pooled_prompt_embeds": self.pooled_BP[row : row + 1],
            "negative_pooled_prompt_embeds": self.pooled_BP[:1],
        }
        picture: Image.Image = self.pipeline(
            **{name: value.to(self.device) for name, value in embeddings.items()},
            num_inference_steps=self.sampling.steps,
            guidance_scale=self.sampling.guidance_scale,
            width=self.sampling.width_px,
            height=self.sampling.height_px,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        return picture
