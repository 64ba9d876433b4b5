"""PickScore: which picture would people pick for this prompt?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.clip import VERSION, ClipText, ClipVision, learned_scale
from eval.scorers.base import Direction, Judge, Metric, Resources, cosine_with_prompt


class PickScore(Metric):
    """exp(logit_scale) times the cosine between picture and prompt, by a CLIP trained on people's choices.

    Kirstain et al. 2023 (arXiv:2305.01569), section 3.
    """

    title: ClassVar[str] = "PickScore"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "exp(logit_scale) x cosine"
    convention: ClassVar[str] = (
        "exp(logit_scale) x cos(picture, prompt), as its authors report it; CLIP-T with the same weights is the cosine "
        "alone, as Diffusion-DPO's code reports it"
    )
    licence: ClassVar[str] = "MIT is its repository's; that of the weights was not checked"
    trained_on: ClassVar[tuple[str, ...]] = ("Pick-a-Pic v1", "LAION-2B")
    decimals: ClassVar[int] = 2
    tie: ClassVar[float] = 1e-3
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, yuvalkirstain/PickScore_v1"

    metric: Literal["pick_score"]
    model: str
    """Folder or hub id of PickScore as a transformers CLIPModel: `yuvalkirstain/PickScore_v1`. Pictures are prepared
    and prompts are cut as the processor and tokenizer in it say."""
    revision: str | None = None
    """Hub commit or tag."""

    def judge(self, resources: Resources) -> Judge:
        place, digest = resources.weights["model"], resources.digests["model"]
        vision = ClipVision(place, digest, resources.device)
        text = ClipText(place, digest, resources.cells, resources.device)
        return cosine_with_prompt(vision, text, learned_scale(place))
