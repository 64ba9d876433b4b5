"""Frame likeness: are the frames of a storyboard of one subject and one place?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.backbones import BackboneMetric
from eval.embeddings import vector_D
from eval.frames import answer_about, likeness
from eval.questions import Answers, about_each
from eval.scorers.base import Direction, Judge, Kind, Resources, Sample, Score


class FrameLikeness(BackboneMetric):
    """Mean cosine between the embeddings of any two frames.

    With DINO after VBench's subject consistency, with CLIP after its background consistency (see eval/frames.py).
    Frames that are all the same have 1: read it beside a metric of the prompts.
    """

    title: ClassVar[str] = "Frame likeness"
    scored: ClassVar[Kind] = "board"
    direction: ClassVar[Direction] = 1
    convention: ClassVar[str] = (
        "mean cosine of whole frames over all pairs of a storyboard's frames, not clamped; VBench compares with the "
        "frame before and the first only"
    )
    version: ClassVar[int] = 1

    metric: Literal["frame_likeness"]

    def judge(self, resources: Resources) -> Judge:
        vision = self.vision(resources)

        def score(sample: Sample, answers: Answers) -> Score:
            vectors = [vector_D(answer_about(vision, frame, answers)) for frame in sample.pictures]
            return likeness(vectors, sample, "to compare")

        return Judge(score, about_each(vision))
