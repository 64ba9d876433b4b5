"""The faces artifact: what a detector found, by picture. To make one: `sdxl_core.faces`."""

from __future__ import annotations

import json
from pathlib import Path

from sdxl_core.data.records import Box

FILE = "faces.jsonl"


def read_faces(folder: Path) -> dict[str, Box | None]:
    """The largest face of every picture that was looked at, by the pictures' sha256; None where there is none."""
    lines = [json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").splitlines()]
    return {line["image_sha256"]: None if line["box"] is None else tuple(line["box"]) for line in lines}
