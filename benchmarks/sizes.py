"""Checkpoints to measure on: SDXL's own classes at three sizes, and cached inputs for them.

Weights are random but for the miniature's; speed does not depend on them. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdxl_core.config import DatasetConfig, TransformConfig
from sdxl_core.data.pairs import Pair, write_pairs
from sdxl_core.data.prepare import prepare_dataset
from sdxl_core.data.records import Record, read_records
from sdxl_core.latents import encode_latents
from sdxl_core.miniature.assemble import save_checkpoint
from sdxl_core.miniature.tokenizer import learn_tokenizer
from sdxl_core.text import encode_text

MINIATURE = Path(__file__).parents[1] / "sdxl_core" / "miniature" / "weights" / "sdxl"
PICTURES = 8
CLASS_PROMPT = "a photo of a person"


@dataclass(frozen=True)
class EncoderSize:
    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Size:
    """A checkpoint of SDXL's structure, and the side of the pictures that it is trained on."""

    resolution_px: int
    unet_channels: tuple[int, int, int] = (0, 0, 0)
    transformer_layers: tuple[int, int, int] = (1, 2, 10)
    vae_channels: tuple[int, int, int, int] = (0, 0, 0, 0)
    text_encoders: tuple[EncoderSize, EncoderSize] | None = None
    """None: the packaged checkpoint."""


_SDXL = Size(
    1024, (320, 640, 1280), (1, 2, 10), (128, 256, 512, 512), (EncoderSize(768, 12, 12), EncoderSize(1280, 32, 20))
)
SIZES = {
    "miniature": Size(64),
    # VAE and text encoders take about the share of a LoRA step's arithmetic that they take in SDXL at 1024 px
    "mid": Size(256, (128, 256, 384), (1, 2, 3), (32, 64, 128, 128), (EncoderSize(192, 2, 3), EncoderSize(320, 3, 5))),
    # what is cached, of full size, with a UNet that a CPU makes in seconds
    "encoders": replace(_SDXL, unet_channels=(64, 64, 64), transformer_layers=(1, 1, 1)),
    "sdxl": _SDXL,
}


def checkpoint(size: Size, folder: Path, device: torch.device) -> Path:
    """A diffusers folder: the packaged one, or random weights drawn on `device` and written as float16."""
    if size.text_encoders is None:
        return MINIATURE
    torch.manual_seed(0)
    tokenizers = learn_tokenizer([CLASS_PROMPT, *(_caption(i) for i in range(PICTURES))])
    with device:
        vae, unet, encoders = _vae(size), _unet(size), _text_encoders(size.text_encoders, tokenizers[0])
    save_checkpoint(folder, vae=vae, unet=unet, text_encoders=encoders, tokenizers=tokenizers)
    return folder


def _unet(size: Size) -> UNet2DConditionModel:
    assert size.text_encoders is not None
    width, pooled = sum(each.width for each in size.text_encoders), size.text_encoders[1].width
    return UNet2DConditionModel(
        sample_size=size.resolution_px // 8,
        block_out_channels=size.unet_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=size.transformer_layers,
        attention_head_dim=tuple(channels // 64 for channels in size.unet_channels),  # so diffusers calls their number
        cross_attention_dim=width,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + pooled,
        use_linear_projection=True,
    )


def _vae(size: Size) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=size.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=size.resolution_px,
        scaling_factor=0.13025,
    )


def _text_encoders(sizes: tuple[EncoderSize, EncoderSize], tokenizer: CLIPTokenizer) -> tuple[nn.Module, nn.Module]:
    first, second = (
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.width,
            intermediate_size=4 * size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            projection_dim=size.width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        for size in sizes
    )
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)


def _caption(number: int) -> str:
    """Of two pictures in a row."""
    return f"a photo of person number {number // 2} in front of a wall"


def cached_inputs(size: Size, model: Path, root: Path) -> Mapping[str, Path]:
    """`dataset` of noise and pairs of it, its `latents` and `text`, and `class_latents`, as the pipeline has them."""
    transform = TransformConfig(resolution_px=size.resolution_px)
    for name, seed in (("dataset", 1), ("class_dataset", 2)):
        captioned = name == "dataset"
        source = _write_pictures(root / f"{name}-files", size.resolution_px, seed, captioned=captioned)
        settings = {"source": "captions"} if captioned else {"source": "prompt", "prompt": CLASS_PROMPT}
        prepare_dataset(DatasetConfig.model_validate({"path": str(source), **settings}), root / name)
        encode_latents(
            transform=transform,
            dataset=root / name,
            vae=model / "vae",
            vae_digest="vae",
            out=root / name.replace("dataset", "latents"),
            cells={},
        )
    datasets = [root / "dataset", root / "class_dataset"]
    encode_text(datasets=datasets, model=model, model_digest="model", out=root / "text", cells={})
    write_pairs(root / "dataset", _pairs(read_records(root / "dataset")))
    return {name: root / name for name in ("dataset", "latents", "class_latents", "text")}


def _pairs(records: Sequence[Record]) -> list[Pair]:
    """Each picture preferred to the next, of its caption."""
    return [Pair(a.sha256, b.sha256, 1.0, a.text, a.source) for a, b in pairwise(records) if a.text == b.text]


def _write_pictures(folder: Path, side_px: int, seed: int, *, captioned: bool) -> Path:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed)
    for number in range(PICTURES):
        pixels_HWC = noise.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
        Image.fromarray(pixels_HWC).save(folder / f"{number}.png")
        if captioned:
            (folder / f"{number}.txt").write_text(_caption(number), encoding="utf-8")
    return folder
