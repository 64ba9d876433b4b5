"""Pictures as tensors and arrays, for metrics of pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from eval.cells import cell_key, number_bytes
from eval.errors import NotScored
from eval.images import Picture
from eval.questions import Question

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image


def same_size(images: Sequence[Image.Image]) -> tuple[Image.Image, Image.Image]:
    """Two pictures. Raises NotScored when their sizes differ."""
    first, second = images
    if first.size != second.size:
        sizes = [f"{image.width}x{image.height}" for image in (first, second)]
        raise NotScored(f"sizes differ: {sizes[0]} against {sizes[1]}")
    return first, second


def pixels_1CHW(image: Image.Image, device: str = "cpu") -> torch.Tensor:
    """uint8 HWC [0, 255] => float32 1CHW [0, 1], on the device."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)[None].float() / 255


class PixelNumber(Question[float]):
    """A number that plain arithmetic makes of one picture's pixels, float64 HWC [0, 255]."""

    def __init__(self, name: str, version: int, measure: Callable[[NDArray[np.float64]], float]) -> None:
        self._measure = measure
        self.spec = cell_key("pixels", name=name, version=version)

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> float:
        import numpy as np

        (image,) = images
        return self._measure(np.asarray(image, dtype=np.float64))

    def answer(self, rows: Sequence[float]) -> list[bytes]:
        return [number_bytes(value) for value in rows]
