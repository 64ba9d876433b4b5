"""open_clip's own loading and forward pass, after the steps of hpsv2's transform for evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
import torchvision.transforms.functional as F
from torchvision.transforms import InterpolationMode

from tests.eval.references import Case

ARCHITECTURE = "ViT-toy-hps"
SETTINGS = {"release": "v2.1", "architecture": ARCHITECTURE}
SIDE_PX = 28


def weights(folder: Path) -> dict[str, Path]:
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": SIDE_PX, "layers": 2, "width": 16, "head_width": 8, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
    }
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(3)
    model = open_clip.create_model(ARCHITECTURE)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "HPS_toy.pt")
    return {"checkpoint": folder / "HPS_toy.pt"}


def reference(case: Case) -> float:
    return 100 * cosine(case.weights["checkpoint"], case.pictures[0], case.prompt, antialias=True)


def cosine(checkpoint: Path, picture: np.ndarray, prompt: str, antialias: bool) -> float:
    model = open_clip.create_model(ARCHITECTURE, pretrained=str(checkpoint)).eval()
    tokens = open_clip.get_tokenizer(ARCHITECTURE)([prompt])
    with torch.no_grad():
        image_features, text_features, _ = model(pixels(picture, antialias)[None], tokens)
    return float((image_features * text_features).sum())


def pixels(picture: np.ndarray, antialias: bool) -> torch.Tensor:
    tensor = F.to_tensor(picture.copy())
    height, width = tensor.shape[1:]
    if height >= width:
        small = [SIDE_PX, round(width * SIDE_PX / height)]
    else:
        small = [round(height * SIDE_PX / width), SIDE_PX]
    tensor = F.resize(tensor, small, InterpolationMode.BICUBIC, antialias=antialias)
    missing_height, missing_width = SIDE_PX - small[0], SIDE_PX - small[1]
    left, top = missing_width // 2, missing_height // 2
    tensor = F.pad(tensor, [left, top, missing_width - left, missing_height - top], fill=0)
    return F.normalize(tensor, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
