"""torchmetrics' polynomial MMD, averaged over all choices of as many pictures from either side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torchmetrics.image.kid import poly_mmd
from transformers import AutoProcessor, CLIPModel

from tests.eval.references import Case
from tests.eval.references.clip_score import weights as weights


def reference(case: Case) -> float:
    ours, theirs = (unit_features(case, pictures) for pictures in (case.pictures, case.instances))
    size = min(len(ours), len(theirs))
    values = [
        poly_mmd(ours[list(some)], theirs[list(others)], gamma=1.0)
        for some in combinations(range(len(ours)), size)
        for others in combinations(range(len(theirs)), size)
    ]
    return float(torch.stack(values).mean())


def unit_features(case: Case, pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """CLIPModel's projected features at length 1, float64."""
    folder = case.weights["model"]
    model = CLIPModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil").image_processor
    with torch.no_grad():
        pixels = processor(images=list(pictures), return_tensors="pt")
        features = model.visual_projection(model.vision_model(**pixels).pooler_output).double()
    return features / features.norm(dim=1, keepdim=True)
