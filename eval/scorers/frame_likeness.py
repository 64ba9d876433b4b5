"""Frame likeness: are the frames of a storyboard of one subject and one place?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.backbones import clip_or_vit
from eval.embeddings import vector_D
from eval.frames import answer_about, likeness
from eval.questions import Answers, about_each
from eval.scorers.base import Direction, Judge, Kind, Metric, Resources, Sample, Score


class FrameLikeness(Metric):
    """Mean cosine between the embeddings of any two frames.

    With DINO after VBench's subject consistency, with CLIP after its background consistency (see eval/frames.py).
    Frames that are all the same have 1: read it beside a metric of the prompts.
    """

    title: ClassVar[str] = "Frame likeness"
    scored: ClassVar[Kind] = "board"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "cosine"
    convention: ClassVar[str] = (
        "mean cosine of whole frames over all pairs of a storyboard's frames, not clamped; VBench compares with the "
        "frame before and the first only"
    )
    licence: ClassVar[str] = "that of the weights; OpenAI's CLIP is MIT, Meta's DINO and DINOv2 are Apache-2.0"
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = 1
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, facebook/dino-vits16 or openai/clip-vit-base-patch32"

    metric: Literal["frame_likeness"]
    model: str
    """Folder or hub id of a transformers CLIP model, DINO or DINOv2; its config.json says which."""
    revision: str | None = None
    """Hub commit or tag."""

    def judge(self, resources: Resources) -> Judge:
        vision = clip_or_vit(resources.weights["model"], resources.digests["model"], resources.device)

        def score(sample: Sample, answers: Answers) -> Score:
            vectors = [vector_D(answer_about(vision, frame, answers)) for frame in sample.pictures]
            return likeness(vectors, sample, "to compare")

        return Judge(score, about_each(vision))
