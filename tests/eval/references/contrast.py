"""Root mean square of the deviations from the mean luma."""

from __future__ import annotations

from pathlib import Path

from tests.eval.references import Case


def weights(folder: Path) -> dict[str, Path]:
    return {}


def reference(case: Case) -> float:
    (picture,) = case.pictures
    lumas = [(0.299 * float(r) + 0.587 * float(g) + 0.114 * float(b)) / 255 for row in picture for r, g, b in row]
    mean = sum(lumas) / len(lumas)
    return float((sum((luma - mean) ** 2 for luma in lumas) / len(lumas)) ** 0.5)
