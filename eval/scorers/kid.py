"""KID: how far is the model's set of pictures from the instance pictures?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from eval.clip import VERSION, ClipVision
from eval.embeddings import about_references
from eval.questions import about_each
from eval.scorers.base import Direction, Judge, Kind, Metric, Resources, Score
from eval.sets import between_sets, unbiased_mmd

if TYPE_CHECKING:
    from eval.sets import Vectors


class Kid(Metric):
    """Kernel distance (Binkowski et al. 2018, arXiv:1801.01401) between two sets of CLIP embeddings.

    Their Inception network is out of place on pictures that ImageNet knows nothing of, and its weights are seldom at
    hand. CLIP's in place of it: Kynkaanniemi et al. 2023 (arXiv:2203.06026), there for FID.
    """

    title: ClassVar[str] = "KID on CLIP features"
    scored: ClassVar[Kind] = "set"
    needs_references: ClassVar[bool] = True
    direction: ClassVar[Direction] = -1
    unit: ClassVar[str] = "squared distance"
    convention: ClassVar[str] = (
        "on features of CLIP, not of Inception, so that no published KID is comparable; unbiased, over all pictures of "
        "both sides: it can fall below 0; kernel (x.y + 1)^3 of unit embeddings"
    )
    licence: ClassVar[str] = "that of the CLIP weights; OpenAI's are MIT"
    decimals: ClassVar[int] = 4
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)
    weights_from: ClassVar[str] = "from the hub, openai/clip-vit-large-patch14"
    picture_fields: ClassVar[tuple[str, ...]] = ("pictures",)

    metric: Literal["kid"]
    model: str
    """Folder or hub id of a transformers CLIP model, such as `openai/clip-vit-large-patch14`."""
    revision: str | None = None
    """Hub commit or tag."""
    pictures: str | None = None
    """Folder of pictures to compare with. Default: the instance pictures."""

    def judge(self, resources: Resources) -> Judge:
        vision = ClipVision(resources.weights["model"], resources.digests["model"], resources.device)
        references = resources.instances
        distance = between_sets(vision, references, lambda x_ND, y_MD: unbiased_mmd(cubic, x_ND, y_MD))
        return Judge(
            score=lambda sample, answers: Score(distance(sample.pictures, answers)),
            asks=about_each(vision),
            references=about_references(vision, references),
        )


def cubic(x_ND: Vectors, y_MD: Vectors) -> Vectors:
    """Their (x.y / D + 1)^3 of vectors whose squared length is D, as that of Inception's is about.

    On unit vectors x.y / D would be next to nothing, and the kernel all but linear.
    """
    found: Vectors = (x_ND @ y_MD.T + 1) ** 3
    return found
