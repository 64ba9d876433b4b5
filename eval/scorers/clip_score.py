"""CLIP score: does the picture show what its prompt says?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.clip import VERSION, ClipText, ClipVision
from eval.scorers.base import Direction, Judge, Metric, Resources, cosine_with_prompt


class ClipScore(Metric):
    """100 times the cosine between the picture's and its prompt's CLIP embedding.

    After Hessel et al. 2021 (arXiv:2104.08718), whose own scale is 2.5 max(cos, 0) with a prefix before the prompt.
    """

    title: ClassVar[str] = "CLIP score"
    of_prompt: ClassVar[bool] = True
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "100 x cosine"
    convention: ClassVar[str] = "100 x cos(picture, prompt), not clamped, no prefix; divide by 100 for the raw cosine"
    licence: ClassVar[str] = "that of the CLIP weights; OpenAI's are MIT"
    decimals: ClassVar[int] = 2
    tie: ClassVar[float] = 1e-3
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, openai/clip-vit-large-patch14"

    metric: Literal["clip_score"]
    model: str
    """Folder or hub id of a transformers CLIP model, such as `openai/clip-vit-large-patch14`."""
    revision: str | None = None
    """Hub commit or tag."""

    def judge(self, resources: Resources) -> Judge:
        place, digest = resources.weights["model"], resources.digests["model"]
        vision = ClipVision(place, digest, resources.device)
        text = ClipText(place, digest, resources.cells, resources.device)
        return cosine_with_prompt(vision, text, scale=100)
