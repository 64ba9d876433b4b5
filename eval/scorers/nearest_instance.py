"""Nearest instance picture: was a picture learned by heart?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.backbones import BackboneMetric
from eval.embeddings import about_references, nearest_others, nearest_row, reference_vectors, vector_D
from eval.images import Picture
from eval.questions import Answers, about_each
from eval.scorers.base import Direction, Judge, Resources, Sample, Score


class NearestInstance(BackboneMetric):
    """The highest cosine between the picture's embedding and any instance picture's.

    A finetune that repeats a training picture comes near 1, whatever the prompt; so does one that paints the subject
    well. It describes: look at the pictures with the highest values. The instance pictures among themselves show what
    is usual.
    """

    title: ClassVar[str] = "Nearest instance"
    needs_references: ClassVar[bool] = True
    direction: ClassVar[Direction] = 0
    convention: ClassVar[str] = "highest cosine to any instance picture; 1 is the same picture to this network"
    version: ClassVar[int] = 1

    metric: Literal["nearest_instance"]

    def judge(self, resources: Resources) -> Judge:
        vision, pictures = self.vision(resources), resources.references
        vectors_ND = reference_vectors(vision, pictures)

        def score(sample: Sample, answers: Answers) -> Score:
            (picture,) = sample.pictures
            place, cosine = nearest_row(vectors_ND(answers), vector_D(answers(vision, picture)))
            return Score(cosine, evidence=pictures[place].identity)

        def instances(answers: Answers) -> list[tuple[Picture, Score]]:
            if len(pictures) < 2:
                return []
            nearest = nearest_others(vectors_ND(answers))
            found = (Score(cosine, evidence=pictures[place].identity) for place, cosine in nearest)
            return list(zip(pictures, found, strict=True))

        return Judge(score, about_each(vision), about_references(vision, pictures), instances)
