"""insightface called as its users call it, and cosines of what it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.eval.references import Case
from tests.eval.toy_faces import write_pack


def weights(folder: Path) -> dict[str, Path]:
    return {"pack": write_pack(folder)}


def reference(case: Case) -> float:
    instances = [largest(case.weights["pack"], picture).normed_embedding for picture in case.instances]
    mean = sum(instances)
    face = largest(case.weights["pack"], case.pictures[0]).normed_embedding
    return float(face @ mean / np.linalg.norm(mean))


def largest(pack: Path, picture: np.ndarray) -> Any:
    return max(faces(pack, picture), key=lambda face: (face.bbox[2] - face.bbox[0]) * (face.bbox[3] - face.bbox[1]))


def faces(pack: Path, picture: np.ndarray) -> list[Any]:
    from insightface.app import FaceAnalysis

    analysis = FaceAnalysis(name=str(pack), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=-1)
    found: list[Any] = analysis.get(np.ascontiguousarray(picture[:, :, ::-1]))
    return found
