"""Wang et al. 2004, equation 13, window by window; the border is reflected so that every pixel has a window."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from tests.eval.references import Case


def weights(folder: Path) -> dict[str, Path]:
    return {}


def reference(case: Case) -> float:
    return float(similarity_map(case).mean())


def similarity_map(case: Case) -> np.ndarray:
    """HWC, one value a window."""
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    first, second = (np.pad(image / 255.0, ((5, 5), (5, 5), (0, 0)), "reflect") for image in case.pictures)
    height, width, _ = case.pictures[0].shape
    values = []
    for top, left, channel in itertools.product(range(height), range(width), range(3)):
        x, y = (image[top : top + 11, left : left + 11, channel] for image in (first, second))
        mean_x, mean_y = (window * x).sum(), (window * y).sum()
        var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
        both = (window * (x - mean_x) * (y - mean_y)).sum()
        values.append(
            (2 * mean_x * mean_y + 0.01**2)
            * (2 * both + 0.03**2)
            / ((mean_x**2 + mean_y**2 + 0.01**2) * (var_x + var_y + 0.03**2))
        )
    return np.reshape(values, (height, width, 3))
