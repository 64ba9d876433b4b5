"""Nearest instance picture: was a picture learned by heart?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.backbones import BackboneMetric
from eval.embeddings import highest_cosine
from eval.scorers.base import Direction, Judge, Resources, compared_with_instances


class NearestInstance(BackboneMetric):
    """The highest cosine between the picture's embedding and any instance picture's.

    A finetune that repeats a training picture comes near 1, whatever the prompt; so does one that paints the subject
    well. It describes: look at the pictures with the highest values.
    """

    title: ClassVar[str] = "Nearest instance"
    needs_references: ClassVar[bool] = True
    direction: ClassVar[Direction] = 0
    convention: ClassVar[str] = "highest cosine to any instance picture; 1 is the same picture to this network"
    version: ClassVar[int] = 1

    metric: Literal["nearest_instance"]

    def judge(self, resources: Resources) -> Judge:
        vision = self.vision(resources)
        return compared_with_instances(vision, resources.references, highest_cosine)
