"""Pictures as tensors, for metrics that compare pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.errors import NotScored

if TYPE_CHECKING:
    import torch
    from PIL import Image


def same_size(images: Sequence[Image.Image]) -> tuple[Image.Image, Image.Image]:
    """Two pictures. Raises NotScored when their sizes differ."""
    first, second = images
    if first.size != second.size:
        sizes = [f"{image.width}x{image.height}" for image in (first, second)]
        raise NotScored(f"sizes differ: {sizes[0]} against {sizes[1]}")
    return first, second


def pixels_1CHW(image: Image.Image) -> torch.Tensor:
    """uint8 HWC [0, 255] => float32 1CHW [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
