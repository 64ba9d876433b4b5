"""Cosines between class tokens, one by one; the pictures squashed to a square by PIL, as a ViT's processor does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, ViTConfig, ViTImageProcessor, ViTModel

from tests.eval.references import Case

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
WIDTHS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}


def weights(folder: Path) -> dict[str, Path]:
    torch.manual_seed(0)
    save_random(ViTModel(ViTConfig(**WIDTHS, intermediate_size=48)), folder)
    size = {"height": 16, "width": 16}
    ViTImageProcessor(size=size, image_mean=MEAN.tolist(), image_std=STD.tolist()).save_pretrained(folder)
    return {"model": folder}


def save_random(model: torch.nn.Module, folder: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)


def reference(case: Case) -> float:
    cosines = cosines_to_instances(case)
    return sum(cosines) / len(cosines)


def cosines_to_instances(case: Case) -> list[float]:
    model = AutoModel.from_pretrained(case.weights["model"]).eval()
    with torch.no_grad():
        tokens = [model(pixels_1CHW(image)).last_hidden_state[0, 0] for image in (*case.pictures, *case.instances)]
    return [float(torch.cosine_similarity(tokens[0], other, dim=0)) for other in tokens[1:]]


def pixels_1CHW(image: np.ndarray) -> torch.Tensor:
    small = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
    return torch.from_numpy((np.asarray(small, dtype=np.float32) / 255 - MEAN) / STD).permute(2, 0, 1)[None]
