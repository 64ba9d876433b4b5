"""A toy SDXL whose two text encoders differ in width, as SDXL's do, and LoRAs on everything that one can change."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdxl_core.miniature.assemble import save_checkpoint
from sdxl_core.miniature.tokenizer import learn_tokenizer
from sdxl_core.miniature.world import caption, draw_person
from sdxl_core.weight_files.architecture import Architecture, Part
from sdxl_core.weight_files.lora import LoraFile, LoraModule

WIDTHS = {"text_encoder": 16, "text_encoder_2": 32}
MakeLora = Callable[..., LoraFile]


@pytest.fixture(scope="session")
def lopsided_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL's levels, layers and classes with random weights in float32; every tensor's values are its own."""
    torch.manual_seed(1)
    rng = random.Random(0)
    tokenizers = learn_tokenizer([caption(draw_person(rng), rng) for _ in range(30)])
    configs = {
        name: CLIPTextConfig(
            vocab_size=len(tokenizers[0]),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=3,
            num_attention_heads=2,
            bos_token_id=tokenizers[0].bos_token_id,
            eos_token_id=tokenizers[0].eos_token_id,
        )
        for name, width in WIDTHS.items()
    }
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 32),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=sum(WIDTHS.values()),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + WIDTHS["text_encoder_2"],
        use_linear_projection=True,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=16,
    )
    encoders = CLIPTextModel(configs["text_encoder"]), CLIPTextModelWithProjection(configs["text_encoder_2"])
    with torch.no_grad():
        for model in (unet, vae, *encoders):
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("lopsided") / "sdxl"
    save_checkpoint(folder, vae=vae, unet=unet, text_encoders=encoders, tokenizers=tokenizers, dtype=torch.float32)
    return folder


@pytest.fixture(scope="session")
def architecture(lopsided_sdxl: Path) -> Architecture:
    return Architecture.of(lopsided_sdxl)


@pytest.fixture(scope="session")
def make_lora(architecture: Architecture) -> MakeLora:
    """LoRAs on every module, or on those whose name holds `within`, with ranks and alphas that vary."""

    def make(
        seed: int = 0,
        parts: tuple[Part, ...] = ("unet", "text_encoder", "text_encoder_2"),
        within: str = "",
        dora: bool = False,
        size: float = 0.1,
        alphas: tuple[float, ...] = (4.0, 1.0, 1.5),
    ) -> LoraFile:
        torch.manual_seed(seed)
        modules: dict[Part, dict[str, LoraModule]] = {}
        for part in parts:
            named = {name: shape for name, shape in architecture.modules[part].items() if within in name}
            for place, (name, (out, *rest)) in enumerate(sorted(named.items())):
                rank = 2 + place % 2
                down, up = torch.randn(rank, *rest), size * torch.randn(out, rank, *[1] * (len(rest) - 1))
                magnitude = 1 + torch.rand(out) if dora else None
                modules.setdefault(part, {})[name] = LoraModule(down, up, alphas[place % len(alphas)], magnitude)
        return LoraFile(modules)

    return make
