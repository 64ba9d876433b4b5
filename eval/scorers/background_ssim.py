"""Background consistency: SSIM between the base's and the candidate's picture, faces left out."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from eval.cells import cell_key
from eval.errors import NotScored
from eval.faces import LICENCE, faces_of
from eval.questions import Answers, Ask
from eval.scorers.base import Direction, Judge, Kind, Resources, Sample, Score
from eval.scorers.face_detection import FaceMetric
from eval.scorers.ssim import WINDOW_PX, Similarity

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

VERSION = 1
CELLS = 64
"""Of the grid that an SSIM map is kept in, along a picture's longer side."""
LEAST_LEFT = 0.1


class BackgroundSsim(FaceMetric):
    """SSIM (Wang et al. 2004) averaged outside all face boxes of both pictures.

    A subject's LoRA should change faces and leave the rest as it was. Bodies and hair count as background where they
    reach out of the grown boxes.
    """

    title: ClassVar[str] = "Background SSIM"
    scored: ClassVar[Kind] = "pair"
    direction: ClassVar[Direction] = 0
    unit: ClassVar[str] = "similarity"
    convention: ClassVar[str] = (
        "SSIM map (Gaussian 11 px, mean over RGB) averaged outside the grown face boxes of both pictures; 1 is equal"
    )
    licence: ClassVar[str] = LICENCE
    decimals: ClassVar[int] = 3
    version: ClassVar[int] = VERSION

    metric: Literal["background_ssim"]
    margin: Annotated[float, Field(ge=0, le=2)] = 0.25
    """How far a face box grows on every side, in its own width and height: detectors' boxes end at brow and chin. At
    least half SSIM's window, so that no window which counts looks into the box; and out to whole cells of a grid, 64
    along the picture's longer side."""

    def judge(self, resources: Resources) -> Judge:
        faces = self.faces(resources)
        similarity = SimilarityMap(resources.device)

        def asks(sample: Sample) -> Iterator[Ask]:
            yield from (Ask(faces, (picture,)) for picture in sample.pictures)
            yield Ask(similarity, sample.pictures)

        def score(sample: Sample, answers: Answers) -> Score:
            grid = answers(similarity, *sample.pictures)
            boxes = [box_4 for picture in sample.pictures for box_4 in faces_of(answers(faces, picture)).boxes_N4]
            return Score(mean_outside(grid, boxes, self.margin))

        return Judge(score, asks)


class SimilarityMap(Similarity):
    """Where two pictures of one size are alike: their SSIM map, summed over the cells of a grid."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.spec = cell_key("ssim-map", cells=CELLS, version=VERSION)

    def answer(self, rows: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[bytes]:
        from torchmetrics.functional.image import structural_similarity_index_measure

        ((base, candidate),) = rows
        _, map_1CHW = structural_similarity_index_measure(
            base.to(self._device), candidate.to(self._device), data_range=1.0, return_full_image=True
        )
        map_HW: NDArray[np.float64] = map_1CHW[0].double().mean(dim=0).cpu().numpy()
        height, width = map_HW.shape
        return [struct.pack("<II", height, width) + _sums(map_HW).astype("<f4").tobytes()]


def mean_outside(grid: bytes, boxes: Sequence[Sequence[float]], margin: float) -> float:
    """Of what `SimilarityMap` answered, the mean over all pixels of cells that no grown box touches.

    Raises NotScored where less than a tenth of the picture is left.
    """
    import numpy as np

    height, width = struct.unpack_from("<II", grid)
    cell = _cell_px(height, width)
    pixels = _sums(np.ones((height, width)))
    sums = np.frombuffer(grid, dtype="<f4", offset=8).reshape(pixels.shape).astype(np.float64)
    outside = np.ones(pixels.shape, dtype=bool)
    for left, top, right, bottom in boxes:
        more_x, more_y = (max(margin * side, WINDOW_PX // 2) for side in (right - left, bottom - top))
        rows = slice(max(0, math.floor((top - more_y) / cell)), math.ceil((bottom + more_y) / cell))
        columns = slice(max(0, math.floor((left - more_x) / cell)), math.ceil((right + more_x) / cell))
        outside[rows, columns] = False
    left_px = float(pixels[outside].sum())
    if left_px < LEAST_LEFT * height * width:
        raise NotScored("faces fill more than nine tenths of the picture")
    return float(sums[outside].sum()) / left_px


def _cell_px(height: int, width: int) -> int:
    return math.ceil(max(height, width) / CELLS)


def _sums(values_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the cells of the grid; those at the right and lower edge may be smaller."""
    import numpy as np

    height, width = values_HW.shape
    starts = [np.arange(0, length, _cell_px(height, width)) for length in (height, width)]
    sums: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(values_HW, starts[0], axis=0), starts[1], axis=1)
    return sums
