"""LAION's layers one after the other, on CLIPModel's projected features."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoProcessor, CLIPModel

from tests.eval.references import Case
from tests.eval.toy_clip import write_clip


def weights(folder: Path) -> dict[str, Path]:
    torch.manual_seed(2)
    state = {f"layers.{key}": tensor for key, tensor in head(width=12).state_dict().items()}
    torch.save(state, folder / "head.pth")
    return {"model": write_clip(folder / "clip"), "head": folder / "head.pth"}


def head(width: int) -> torch.nn.Sequential:
    """As simple_inference.py of improved-aesthetic-predictor, with narrower layers."""
    return torch.nn.Sequential(
        torch.nn.Linear(width, 10),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(10, 8),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(8, 6),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(6, 4),
        torch.nn.Linear(4, 1),
    )


def reference(case: Case) -> float:
    folder = case.weights["model"]
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = AutoProcessor.from_pretrained(folder, backend="pil").image_processor(
        images=list(case.pictures), return_tensors="pt"
    )
    layers = head(width=12).eval()
    stored = torch.load(case.weights["head"], weights_only=True)
    layers.load_state_dict({key.removeprefix("layers."): tensor for key, tensor in stored.items()})
    with torch.no_grad():
        features = model.visual_projection(model.vision_model(**pixels).pooler_output)
        return float(layers(features / features.norm(dim=1, keepdim=True)))
