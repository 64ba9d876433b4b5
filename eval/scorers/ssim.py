"""SSIM between the base's and the candidate's picture: how much of the structure stayed?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.cells import cell_key, remembered_float
from eval.errors import NotScored
from eval.pixels import pixels_1CHW, same_size_pair
from eval.scorers.base import Direction, Judge, Metric, Needs, Resources, Sample, Score

WINDOW_PX = 11


class Ssim(Metric):
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 px with sigma 1.5, 1 for equal pictures."""

    title: ClassVar[str] = "SSIM"
    needs: ClassVar[Needs] = "pair"
    direction: ClassVar[Direction] = 0
    unit: ClassVar[str] = "similarity"
    convention: ClassVar[str] = (
        "base against candidate from the same noise, mean over RGB, borders reflected; 1 is equal"
    )
    licence: ClassVar[str] = "none needed"
    decimals: ClassVar[int] = 3
    version: ClassVar[int] = 1

    metric: Literal["ssim"]

    def judge(self, resources: Resources) -> Judge:
        def similarity(sample: Sample) -> float:
            import torch
            from torchmetrics.functional.image import structural_similarity_index_measure

            first, second = same_size_pair(sample.pictures)
            if min(first.size) < WINDOW_PX:
                raise NotScored(f"smaller than the window of {WINDOW_PX} px")
            base, candidate = (pixels_1CHW(image).to(resources.device) for image in (first, second))
            value = structural_similarity_index_measure(base, candidate, data_range=1.0)
            assert isinstance(value, torch.Tensor)  # a tuple only when the whole map is asked for
            return float(value)

        def score(sample: Sample) -> Score:
            images = [picture.identity for picture in sample.pictures]
            key = cell_key("ssim", images=images, version=self.version)
            return Score(remembered_float(resources.cells, key, lambda: similarity(sample)))

        return score
