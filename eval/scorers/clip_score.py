"""CLIP score: does the picture show what its prompt says?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.clip import VERSION, ClipText, ClipVision
from eval.embeddings import vector_D
from eval.questions import Answers, about_each
from eval.scorers.base import Direction, Judge, Metric, Resources, Sample, Score


class ClipScore(Metric):
    """100 times the cosine between the picture's and its prompt's CLIP embedding.

    After Hessel et al. 2021 (arXiv:2104.08718), whose own scale is 2.5 max(cos, 0) with a prefix before the prompt.
    """

    title: ClassVar[str] = "CLIP score"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "100 x cosine"
    convention: ClassVar[str] = "100 x cos(picture, prompt), not clamped, no prefix; divide by 100 for the raw cosine"
    licence: ClassVar[str] = "that of the CLIP weights; OpenAI's are MIT"
    decimals: ClassVar[int] = 2
    tie: ClassVar[float] = 1e-3
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)

    metric: Literal["clip_score"]
    model: str
    """Folder or hub id of a transformers CLIP model, such as `openai/clip-vit-large-patch14`."""
    revision: str | None = None
    """Hub commit or tag."""

    def judge(self, resources: Resources) -> Judge:
        place, digest = resources.weights["model"], resources.digests["model"]
        vision = ClipVision(place, digest, resources.device)
        text = ClipText(place, digest, resources.cells, resources.device)

        def score(sample: Sample, answers: Answers) -> Score:
            (picture,) = sample.pictures
            cosine = float(vector_D(answers(vision, picture)) @ text.embedding_D(picture.prompt))
            return Score(100 * cosine, truncated=text.is_truncated(picture.prompt))

        return Judge(score, about_each(vision))
