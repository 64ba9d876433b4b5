"""Faces brought to where a recogniser expects them, so that gradients go back into the picture."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sdxl_core.identity.face_model import TEMPLATE_PX

# CHW: channels, height, width; 52: five points (eyes, nose, corners of the mouth, left ones first), each x and y;
# 23: an affine matrix. Whole coordinates are centers of pixels, as in OpenCV and insightface.

TEMPLATE_52 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where ArcFace has the points in its picture (insightface, utils/face_align.py)."""
MOST_SAMPLES = 16
"""Along each side of a pixel; faces up to 1792 px have all they need."""
OUTSIDE = -1.0
"""What is beside a picture: black."""


def alignment_of(points_52: NDArray[np.float64]) -> NDArray[np.float64]:
    """2 x 3 matrix from the template's pixels to the picture's, for points in the picture.

    The inverse of the similarity that takes the points nearest to the template (Umeyama 1991, eq. 40-42), which is
    how insightface aligns. The points must not all be one.
    """
    mean, template_mean = points_52.mean(0), TEMPLATE_52.mean(0)
    centered, template = points_52 - mean, TEMPLATE_52 - template_mean
    left, singular, right = np.linalg.svd(template.T @ centered / len(points_52))
    signs = np.array([1.0, np.sign(np.linalg.det(left @ right))])  # turned, never mirrored
    rotation = left @ np.diag(signs) @ right
    scale = (singular * signs).sum() / centered.var(0).sum()
    back = rotation.T / scale
    return np.column_stack([back, mean - back @ template_mean])


def aligned(picture_CHW: Tensor, alignment_23: Tensor) -> Tensor:
    """The face in a picture in [-1, 1] as the recogniser expects it, C x 112 x 112.

    Where the face is larger than the template, every pixel is the mean of as many bilinear samples as cover it, so that
    nothing aliases and gradients reach all pixels of the face. Where it is not, this is OpenCV's `warpAffine`.
    """
    # the samples of one picture by `gather`: grid_sample has no deterministic gradient on a GPU
    alignment_23 = alignment_23.to(picture_CHW)
    pixels = float(torch.linalg.det(alignment_23[:, :2]).abs().sqrt())
    samples = min(max(1, math.ceil(pixels - 1e-3)), MOST_SAMPLES)
    side = TEMPLATE_PX * samples
    along = (torch.arange(side, device=picture_CHW.device, dtype=picture_CHW.dtype) + 0.5) / samples - 0.5
    v, u = torch.meshgrid(along, along, indexing="ij")
    x, y = alignment_23 @ torch.stack([u.flatten(), v.flatten(), torch.ones_like(u).flatten()])
    sampled = _bilinear(picture_CHW, x, y).view(-1, side, side)
    return F.avg_pool2d(sampled[None], samples)[0]


def _bilinear(picture_CHW: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """C x N samples."""
    height, width = picture_CHW.shape[-2:]
    flat = picture_CHW.flatten(1)
    left, top = x.floor(), y.floor()
    total = torch.zeros_like(x).expand(len(flat), -1)
    for column, row, weight in (
        (left, top, (left + 1 - x) * (top + 1 - y)),
        (left + 1, top, (x - left) * (top + 1 - y)),
        (left, top + 1, (left + 1 - x) * (y - top)),
        (left + 1, top + 1, (x - left) * (y - top)),
    ):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
        values = flat.gather(1, index.expand(len(flat), -1))
        total = total + weight * torch.where(inside, values, OUTSIDE)
    return total
