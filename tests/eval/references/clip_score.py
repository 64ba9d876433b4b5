"""CLIPModel's own logits."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoProcessor, CLIPModel

from tests.eval.references import Case
from tests.eval.toy_clip import write_clip


def weights(folder: Path) -> dict[str, Path]:
    return {"model": write_clip(folder)}


def reference(case: Case) -> float:
    logit, scale = logit_and_scale(case)
    return 100 * logit / scale


def logit_and_scale(case: Case) -> tuple[float, float]:
    folder = case.weights["model"]
    model = CLIPModel.from_pretrained(folder).eval()
    inputs = AutoProcessor.from_pretrained(folder, backend="pil")(
        text=[case.prompt],
        images=list(case.pictures),
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=77,
    )
    with torch.no_grad():
        return float(model(**inputs).logits_per_image[0, 0]), float(model.logit_scale.exp())
