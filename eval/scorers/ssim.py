"""SSIM between the base's and the candidate's picture: how much of the structure stayed?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from eval.cells import cell_key, number_bytes
from eval.errors import NotScored
from eval.images import Picture
from eval.pixels import pixels_1CHW, same_size
from eval.questions import Question, about_all
from eval.scorers.base import Direction, Judge, Kind, Metric, Resources, number_told

if TYPE_CHECKING:
    import torch
    from PIL import Image

WINDOW_PX = 11


class Ssim(Metric):
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 px with sigma 1.5, 1 for equal pictures."""

    title: ClassVar[str] = "SSIM"
    scored: ClassVar[Kind] = "pair"
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
        similarity = Similarity(resources.device)
        return Judge(number_told(similarity), about_all(similarity))


class Similarity(Question["tuple[torch.Tensor, torch.Tensor]"]):
    """Of two pictures of one size."""

    rows_at_once = 1
    keeps_pixels = True

    def __init__(self, device: str) -> None:
        self._device = device
        self.spec = cell_key("ssim", version=Ssim.version)

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = same_size(images)
        if min(first.size) < WINDOW_PX:
            raise NotScored(f"smaller than the window of {WINDOW_PX} px")
        return pixels_1CHW(first), pixels_1CHW(second)

    def answer(self, rows: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[bytes]:
        import torch
        from torchmetrics.functional.image import structural_similarity_index_measure

        ((base, candidate),) = rows
        value = structural_similarity_index_measure(base.to(self._device), candidate.to(self._device), data_range=1.0)
        assert isinstance(value, torch.Tensor)  # a tuple only when the whole map is asked for
        return [number_bytes(float(value))]
