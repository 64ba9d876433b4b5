"""DINO: does the picture show the very subject of the instance pictures?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.embeddings import mean_cosine
from eval.scorers.base import Direction, Judge, Metric, Resources, compared_with_instances
from eval.vit import VitVision


class Dino(Metric):
    """Mean cosine between the picture's DINO embedding and every instance picture's.

    DreamBooth, Ruiz et al. 2022 (arXiv:2208.12242), section 4.1: unlike CLIP-I, it tells subjects of one class apart.
    """

    title: ClassVar[str] = "DINO"
    needs_references: ClassVar[bool] = True
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "cosine"
    convention: ClassVar[str] = (
        "mean cosine of class tokens to all instance pictures, as the folder's own processor sees them, not clamped"
    )
    licence: ClassVar[str] = "that of the weights; Meta's DINO and DINOv2 are Apache-2.0"
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = VitVision.version
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, facebook/dino-vits16"
    picture_fields: ClassVar[tuple[str, ...]] = ("pictures",)

    metric: Literal["dino"]
    model: str
    """Folder or hub id of a transformers ViT: `facebook/dino-vits16`, which DreamBooth used, or a DINOv2 such as
    `facebook/dinov2-base`. Its weights must be safetensors."""
    revision: str | None = None
    """Hub commit or tag."""
    pictures: str | None = None
    """Folder of pictures to compare with. Default: the instance pictures. Data that changes by itself should not choose
    what it is judged by: name a folder that people have chosen."""

    def judge(self, resources: Resources) -> Judge:
        vision = VitVision(resources.weights["model"], resources.digests["model"], resources.device)
        return compared_with_instances(vision, resources.instances, mean_cosine)
