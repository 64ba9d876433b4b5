"""CLIP-I: does the picture look like the instance pictures?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.clip import VERSION, ClipVision
from eval.embeddings import mean_cosine
from eval.scorers.base import Direction, Judge, Metric, Resources, compared_with_instances


class ClipI(Metric):
    """Mean cosine between the picture's CLIP embedding and every instance picture's.

    DreamBooth, Ruiz et al. 2022 (arXiv:2208.12242), section 4.1.
    """

    title: ClassVar[str] = "CLIP-I"
    needs_references: ClassVar[bool] = True
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "cosine"
    convention: ClassVar[str] = "mean cosine to all instance pictures, whole pictures, not clamped"
    licence: ClassVar[str] = "that of the CLIP weights; OpenAI's are MIT"
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, openai/clip-vit-base-patch32"
    picture_fields: ClassVar[tuple[str, ...]] = ("pictures",)

    metric: Literal["clip_i"]
    model: str
    """Folder or hub id of a transformers CLIP model, such as `openai/clip-vit-base-patch32`."""
    revision: str | None = None
    """Hub commit or tag."""
    pictures: str | None = None
    """Folder of pictures to compare with. Default: the instance pictures. Data that changes by itself should not choose
    what it is judged by: name a folder that people have chosen."""

    def judge(self, resources: Resources) -> Judge:
        vision = ClipVision(resources.weights["model"], resources.digests["model"], resources.device)
        return compared_with_instances(vision, resources.instances, mean_cosine)
