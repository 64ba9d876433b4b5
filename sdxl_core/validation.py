"""Pictures of a model in training, always from the same prompts and noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from sdxl_core.model import load_vae, vae_folder, zeros_for_empty_prompt
from sdxl_core.networks import Networks
from sdxl_core.prompts import prompt_seed
from sdxl_core.scheduler import sampling_scheduler
from sdxl_core.text import encode_prompts
from sdxl_core.train_job import TrainJob
from sdxl_core.trained import Trained
from sdxl_core.training_config import ValidationConfig


@contextmanager
def evaluating(networks: Networks) -> Iterator[None]:
    """Without dropout inside, and as before afterwards."""
    modes = [(part, part.training) for part in networks.parts.values()]
    for part, _ in modes:
        part.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.train(training)


class Validation:
    """Samples from the live networks. Prompts are encoded once, on creation, unless what encodes them is trained."""

    def __init__(self, config: ValidationConfig, job: TrainJob, trained: Trained, device: torch.device) -> None:
        self.config = config
        self.sampling = job.sampling
        self.trained = trained
        self.device = device
        self.zeros = zeros_for_empty_prompt(job.model)
        live = trained.networks.text_encoders is not None
        self.encoded = None if live else encode_prompts(job.model, config.prompts, device)
        self.pipeline = StableDiffusionXLPipeline(
            vae=load_vae(vae_folder(job.model, job.vae), torch.device("cpu")),
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            unet=trained.networks.unet,
            scheduler=sampling_scheduler(job.model, job.training.schedule, job.sampling),
            add_watermarker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def pictures(self) -> list[Image.Image]:
        """One picture per validation prompt."""
        self.pipeline.vae.to(self.device)
        try:
            with evaluating(self.trained.networks):
                text_BSE, pooled_BP = self.encoded or self._encode()
                return [self._picture(row, text_BSE, pooled_BP) for row in range(1, len(text_BSE))]
        finally:
            self.pipeline.vae.to("cpu")  # a third of a gigabyte that no step needs

    def _encode(self) -> tuple[Tensor, Tensor]:
        """The prompts as the text encoders see them now, after the unconditional row."""
        encoders, tokenizers = self.trained.networks.text_encoders, self.trained.tokenizers
        assert encoders is not None and tokenizers is not None
        prompts = ["", *self.config.prompts]
        ids_B2KT = torch.stack([tokenizers.chunks(prompt) for prompt in prompts]).to(self.device)
        text_BSE, pooled_BP = encoders(ids_B2KT)
        if self.zeros:
            text_BSE[0], pooled_BP[0] = 0.0, 0.0
        return text_BSE, pooled_BP

    def _picture(self, row: int, text_BSE: Tensor, pooled_BP: Tensor) -> Image.Image:
        seed = prompt_seed(self.config.seed, self.config.prompts[row - 1], 0)
        embeddings: dict[str, Any] = {
            "prompt_embeds": text_BSE[row : row + 1],
            "negative_prompt_embeds": text_BSE[:1],
            "pooled_prompt_embeds": pooled_BP[row : row + 1],
            "negative_pooled_prompt_embeds": pooled_BP[:1],
        }
        picture: Image.Image = self.pipeline(
            **{name: value.to(self.device) for name, value in embeddings.items()},
            num_inference_steps=self.sampling.steps,
            guidance_scale=self.sampling.guidance_scale,
            guidance_rescale=self.sampling.guidance_rescale,
            width=self.sampling.width_px,
            height=self.sampling.height_px,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        return picture
