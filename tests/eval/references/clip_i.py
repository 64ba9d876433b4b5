"""Cosines between CLIPModel's projected features, one by one."""

from __future__ import annotations

import torch
from transformers import AutoProcessor, CLIPModel

from tests.eval.references import Case
from tests.eval.references.clip_score import weights as weights


def reference(case: Case) -> float:
    folder = case.weights["model"]
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = AutoProcessor.from_pretrained(folder, backend="pil").image_processor(
        images=[*case.pictures, *case.instances], return_tensors="pt"
    )
    with torch.no_grad():
        features = model.visual_projection(model.vision_model(**pixels).pooler_output)
    cosines = [torch.cosine_similarity(features[0], other, dim=0) for other in features[1:]]
    return float(sum(cosines) / len(cosines))
