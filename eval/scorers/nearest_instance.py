"""Nearest instance picture: was a picture learned by heart?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.clip import ClipVision
from eval.embeddings import highest_cosine
from eval.scorers.base import Direction, Judge, Metric, Resources, compared_with_instances
from eval.vision import Vision, model_type
from eval.vit import VitVision


class NearestInstance(Metric):
    """The highest cosine between the picture's embedding and any instance picture's.

    A finetune that repeats a training picture comes near 1, whatever the prompt; so does one that paints the subject
    well. It describes: look at the pictures with the highest values.
    """

    title: ClassVar[str] = "Nearest instance"
    needs_references: ClassVar[bool] = True
    direction: ClassVar[Direction] = 0
    unit: ClassVar[str] = "cosine"
    convention: ClassVar[str] = "highest cosine to any instance picture; 1 is the same picture to this network"
    licence: ClassVar[str] = "that of the weights; OpenAI's CLIP is MIT, Meta's DINO and DINOv2 are Apache-2.0"
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = 1
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, facebook/dino-vits16 or openai/clip-vit-base-patch32"

    metric: Literal["nearest_instance"]
    model: str
    """Folder or hub id of a transformers CLIP model, DINO or DINOv2; its config.json says which. The folder of `clip_i`
    or `dino` costs nothing more."""
    revision: str | None = None
    """Hub commit or tag."""

    def judge(self, resources: Resources) -> Judge:
        place = resources.weights["model"]
        kinds: dict[str, type[Vision]] = {name: cls for cls in (ClipVision, VitVision) for name in cls.model_types}
        kind = kinds[model_type(place, "a CLIP model or a vision transformer", tuple(kinds))]
        vision = kind(place, resources.digests["model"], resources.device)
        return compared_with_instances(vision, resources.references, highest_cosine)
