"""The miniature's networks: SDXL's own classes, some four hundred times smaller."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from torchvision.models import squeezenet1_1
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from sdxl_core.miniature.world import COLOUR, EXPRESSION, HAIR_COLOUR, HAIR_STYLE, HAT, SCENE, SKIN, TRAINED_STYLES

TEXT_WIDTH = 64
CLIP_WIDTH = 128
TIME_ID_WIDTH = 32  # sinusoid per micro-conditioning number; 256 in SDXL
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}

PROBE_HEADS: dict[str, tuple[str, ...]] = {
    "skin": tuple(SKIN),
    "hair_style": HAIR_STYLE,
    "hair_colour": tuple(HAIR_COLOUR),
    "hat": HAT,
    "hat_colour": tuple(COLOUR),
    "shirt_colour": tuple(COLOUR),
    "glasses": ("False", "True"),
    "beard": ("False", "True"),
    "expression": EXPRESSION,
    "scene": tuple(SCENE),
    "style": TRAINED_STYLES,
}


def build_vae() -> AutoencoderKL:
    """Down-samples four times (SDXL's: eight): 64 px become 16 x 16 latents of four channels."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        force_upcast=False,
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(2, 3, 4),
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=6 * TIME_ID_WIDTH + TEXT_WIDTH,
        use_linear_projection=True,
        norm_num_groups=16,
    )


def _text_config(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_text_encoders(
    tokenizer: CLIPTokenizer, tokenizer_2: CLIPTokenizer
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    first = CLIPTextModel(_text_config(tokenizer, TEXT_WIDTH, layers=3))
    second = CLIPTextModelWithProjection(_text_config(tokenizer_2, TEXT_WIDTH, layers=3))
    return first, second


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = _text_config(tokenizer, CLIP_WIDTH, layers=3).to_dict()
    vision = {
        "hidden_size": CLIP_WIDTH,
        "intermediate_size": 4 * CLIP_WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": CLIP_WIDTH,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=CLIP_WIDTH))


def build_sampler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**NOISE_SCHEDULE, timestep_spacing="leading", steps_offset=1)


class AttributeProbe(nn.Module):
    """Reads a portrait's attributes back from its pixels: SqueezeNet 1.1's trunk and one linear head per attribute.

    Iandola et al. 2016 (arXiv:1602.07360). The trunk has torchvision's own layout, so that `lpips` can use it too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = squeezenet1_1(weights=None).features
        self.heads = nn.ModuleDict({name: nn.Linear(512, len(values)) for name, values in PROBE_HEADS.items()})

    def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """`x_BCHW` in [-1, 1], 64 px -> logits of every attribute's values, by attribute."""
        pooled_BF = self.features(x_BCHW).mean(dim=(2, 3))
        return {name: head(pooled_BF) for name, head in self.heads.items()}
