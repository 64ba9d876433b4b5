"""Hasler and Suesstrunk 2003, colourfulness M3, written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.eval.references import Case


def weights(folder: Path) -> dict[str, Path]:
    return {}


def reference(case: Case) -> float:
    (picture,) = case.pictures
    pixels = [tuple(map(float, pixel)) for row in picture for pixel in row]
    rg = [red - green for red, green, _ in pixels]
    yb = [0.5 * (red + green) - blue for red, green, blue in pixels]
    sigma = (np.var(rg) + np.var(yb)) ** 0.5
    mu = (np.mean(rg) ** 2 + np.mean(yb) ** 2) ** 0.5
    return float(sigma + 0.3 * mu)
