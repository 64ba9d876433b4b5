"""CLIP-I: does the picture look like the instance pictures?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from eval.clip import VERSION, ClipEncoder
from eval.errors import EvalError, NotScored
from eval.images import Picture
from eval.scorers.base import Direction, Judge, Metric, Needs, Resources, Sample, Score

if TYPE_CHECKING:
    import numpy as np


class ClipI(Metric):
    """Mean cosine between the picture's CLIP embedding and every instance picture's.

    DreamBooth, Ruiz et al. 2022 (arXiv:2208.12242), section 4.1.
    """

    title: ClassVar[str] = "CLIP-I"
    needs: ClassVar[Needs] = "references"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "cosine"
    convention: ClassVar[str] = "mean cosine to all instance pictures, whole pictures, not clamped"
    licence: ClassVar[str] = "that of the CLIP weights; OpenAI's are MIT"
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("model",)

    metric: Literal["clip_i"]
    model: str
    """Folder or hub id of a transformers CLIP model, such as `openai/clip-vit-base-patch32`."""
    revision: str | None = None
    """Hub commit or tag."""

    def judge(self, resources: Resources) -> Judge:
        import numpy as np

        clip = ClipEncoder(resources.weights["model"], resources.digests["model"], resources.cells, resources.device)
        # the mean of cosines to unit vectors is the product with their mean
        reference_D = np.mean([_reference_D(clip, picture) for picture in resources.references], axis=0)

        def score(sample: Sample) -> Score:
            (picture,) = sample.pictures
            return Score(float(clip.image_D(picture) @ reference_D))

        return score


def _reference_D(clip: ClipEncoder, picture: Picture) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    try:
        return clip.image_D(picture)
    except NotScored as problem:
        raise EvalError(f"instance picture {picture.path.name}: {problem}; prepare the dataset again") from problem
