"""CMMD: how far is the model's set of pictures from the instance pictures, by CLIP alone?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from eval.clip import VERSION, ClipVision
from eval.embeddings import about_references
from eval.questions import about_each
from eval.scorers.base import Direction, Judge, Kind, Metric, Resources, Score
from eval.sets import between_sets, biased_mmd

if TYPE_CHECKING:
    from eval.sets import Vectors

SIGMA = 10.0
SCALE = 1000


class Cmmd(Metric):
    """Maximum mean discrepancy of CLIP embeddings with a Gaussian kernel (Jayasumana et al. 2024, arXiv:2401.09603)."""

    title: ClassVar[str] = "CMMD"
    scored: ClassVar[Kind] = "set"
    needs_references: ClassVar[bool] = True
    direction: ClassVar[Direction] = -1
    unit: ClassVar[str] = "1000 x squared distance"
    convention: ClassVar[str] = (
        "1000 x biased MMD^2 of unit CLIP embeddings, Gaussian kernel with sigma 10, equally many pictures on both "
        "sides; published values are of ViT-L/14 at 336 px and 30,000 pictures, this is of the CLIP named here at its "
        "own size (ViT-L/14: 224 px)"
    )
    licence: ClassVar[str] = "that of the CLIP weights; OpenAI's are MIT"
    decimals: ClassVar[int] = 3
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, openai/clip-vit-large-patch14"
    picture_fields: ClassVar[tuple[str, ...]] = ("pictures",)

    metric: Literal["cmmd"]
    model: str
    """Folder or hub id of a transformers CLIP model, such as `openai/clip-vit-large-patch14`."""
    revision: str | None = None
    """Hub commit or tag."""
    pictures: str | None = None
    """Folder of pictures to compare with. Default: the instance pictures."""

    def judge(self, resources: Resources) -> Judge:
        vision = ClipVision(resources.weights["model"], resources.digests["model"], resources.device)
        references = resources.instances
        distance = between_sets(vision, references, lambda x_ND, y_MD: SCALE * biased_mmd(gaussian, x_ND, y_MD))
        return Judge(
            score=lambda sample, answers: Score(distance(sample.pictures, answers)),
            asks=about_each(vision),
            references=about_references(vision, references),
        )


def gaussian(x_ND: Vectors, y_MD: Vectors) -> Vectors:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    import numpy as np

    squares_NM = (x_ND**2).sum(axis=1)[:, None] + (y_MD**2).sum(axis=1) - 2 * x_ND @ y_MD.T
    found: Vectors = np.exp(-squares_NM / (2 * SIGMA**2))
    return found
