"""By the toy detector's own rule, from the picture's mean colours."""

from __future__ import annotations

from pathlib import Path

from tests.eval.references import Case
from tests.eval.toy_faces import write_pack


def weights(folder: Path) -> dict[str, Path]:
    return {"pack": write_pack(folder, recogniser=False)}


def reference(case: Case) -> float:
    red, _, blue = case.pictures[0].mean(axis=(0, 1)) / 255
    return float(blue > red - 0.5)
