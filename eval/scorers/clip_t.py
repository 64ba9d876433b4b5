"""CLIP-T: does the picture show what its prompt says? As DreamBooth reports it."""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.clip import VERSION, ClipText, ClipVision
from eval.scorers.base import Direction, Judge, Metric, Resources, cosine_with_prompt


class ClipT(Metric):
    """Cosine between the picture's and its prompt's CLIP embedding.

    DreamBooth, Ruiz et al. 2022 (arXiv:2208.12242), section 4.1.
    """

    title: ClassVar[str] = "CLIP-T"
    of_prompt: ClassVar[bool] = True
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "cosine"
    convention: ClassVar[str] = "cos(picture, prompt), not clamped, no prefix; the CLIP score is 100 times as much"
    licence: ClassVar[str] = "that of the CLIP weights; OpenAI's are MIT"
    decimals: ClassVar[int] = 4
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, openai/clip-vit-base-patch32"

    metric: Literal["clip_t"]
    model: str
    """Folder or hub id of a transformers CLIP model, such as `openai/clip-vit-base-patch32`."""
    revision: str | None = None
    """Hub commit or tag."""

    def judge(self, resources: Resources) -> Judge:
        place, digest = resources.weights["model"], resources.digests["model"]
        vision = ClipVision(place, digest, resources.device)
        text = ClipText(place, digest, resources.cells, resources.device)
        return cosine_with_prompt(vision, text, scale=1)
