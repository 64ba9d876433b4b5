"""Networks that embed pictures, by what their folder says it holds."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from eval.clip import ClipVision
from eval.scorers.base import Metric, Resources
from eval.vision import Vision, model_type
from eval.vit import VitVision

KINDS: dict[str, type[Vision]] = {name: cls for cls in (ClipVision, VitVision) for name in cls.model_types}


def clip_or_vit(folder: Path, digest: str, device: str) -> Vision:
    """Raises EvalError for a folder of another kind."""
    kind = KINDS[model_type(folder, "a CLIP model or a vision transformer", tuple(KINDS))]
    return kind(folder, digest, device)


class BackboneMetric(Metric):
    """Base of the metrics that compare pictures by whatever network a folder holds."""

    licence: ClassVar[str] = "that of the weights; OpenAI's CLIP is MIT, Meta's DINO and DINOv2 are Apache-2.0"
    unit: ClassVar[str] = "cosine"
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, facebook/dino-vits16 or openai/clip-vit-base-patch32"

    model: str
    """Folder or hub id of a transformers CLIP model, DINO or DINOv2; its config.json says which. The folder of another
    metric costs nothing more."""
    revision: str | None = None
    """Hub commit or tag."""

    def vision(self, resources: Resources) -> Vision:
        """What this metric asks about each picture."""
        return clip_or_vit(resources.weights["model"], resources.digests["model"], resources.device)
