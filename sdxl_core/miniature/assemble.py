"""Put trained networks into the folders that others load: diffusers' layout, CLIP's layout, and the probe's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer, ViTImageProcessor, ViTModel

from sdxl_core.miniature.networks import AttributeProbe, build_sampler
from sdxl_core.tensor_files import write_tensors

NOTE = (
    "Trained for the miniature world alone. It is not the published model, and no number it gives is a published score."
)
"""Stands in everything that measures, from where reports take it."""


def save_checkpoint(
    folder: Path,
    *,
    vae: AutoencoderKL,
    unet: nn.Module,
    text_encoders: tuple[nn.Module, nn.Module],
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
    dtype: torch.dtype = torch.float16,
) -> None:
    """A Stable Diffusion XL checkpoint in diffusers' layout, weights in `dtype`."""
    pipeline = StableDiffusionXLPipeline(
        vae=vae.to(dtype),
        text_encoder=text_encoders[0].to(dtype),
        text_encoder_2=text_encoders[1].to(dtype),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet.to(dtype),
        scheduler=build_sampler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name, tokenizer in zip(("tokenizer", "tokenizer_2"), tokenizers, strict=True):
        tokenizer.backend_tokenizer.model.save(str(folder / name))  # vocab.json and merges.txt, as CLIP ships them
    _tidy_configurations(folder)


def save_clip(folder: Path, clip: CLIPModel, tokenizer: CLIPTokenizer, dtype: torch.dtype = torch.float16) -> None:
    """A CLIPModel folder with its processor; pictures are normalised from [0, 1] to [-1, 1]."""
    side = clip.config.vision_config.image_size
    clip.config.note = NOTE
    images = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    clip.to(dtype).save_pretrained(folder, safe_serialization=True)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    _tidy_configurations(folder)


def save_vit(folder: Path, vit: ViTModel, dtype: torch.dtype = torch.float16) -> None:
    """A ViTModel folder with its processor; pictures are normalised from [0, 1] to [-1, 1]."""
    side = vit.config.image_size
    vit.config.note = NOTE
    images = ViTImageProcessor(
        size={"height": side, "width": side}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    vit.to(dtype).save_pretrained(folder, safe_serialization=True)
    images.save_pretrained(folder)
    _tidy_configurations(folder)


def save_probe(folder: Path, probe: AttributeProbe, dtype: torch.dtype = torch.float16) -> None:
    """`trunk.safetensors` with torchvision's SqueezeNet feature names, and `heads.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("trunk", probe.features), ("heads", probe.heads)):
        stored = {k: v.to(dtype) for k, v in part.state_dict().items()}
        write_tensors(folder / f"{name}.safetensors", stored, {"note": NOTE})


def load_probe(folder: Path) -> AttributeProbe:
    """The attribute probe in float32, ready to read portraits."""
    probe = AttributeProbe()
    for name, part in (("trunk", probe.features), ("heads", probe.heads)):
        part.load_state_dict({k: v.float() for k, v in load_file(folder / f"{name}.safetensors").items()})
    return probe.eval()


def digests(weights: Path) -> dict[str, object]:
    """What the manifest says of the files in `weights`: SHA-256 of each, and the bytes of all."""
    files = sorted(p for p in weights.rglob("*") if p.is_file() and p != weights / "manifest.json")
    return {
        "files": {str(p.relative_to(weights)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        "bytes": sum(p.stat().st_size for p in files),
    }


def _tidy_configurations(folder: Path) -> None:
    """Drop the local paths that the libraries note, and have transformers compute in float32 whatever it reads.

    Left alone, transformers runs the text encoders in the files' float16 where diffusers runs the UNet in float32, and
    `from_pretrained(folder)` with no arguments gives a pipeline that cannot run.
    """
    for path in folder.rglob("*.json"):
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.keys() & {"_name_or_path", "name_or_path", "dtype"}:
            kept = {k: v for k, v in value.items() if k not in ("_name_or_path", "name_or_path")}
            kept |= {"dtype": "float32"} if "dtype" in kept else {}
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
