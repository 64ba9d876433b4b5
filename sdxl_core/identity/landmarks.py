"""Five points of the face of each picture, found once, for the identity loss."""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from sdxl_core.data.decode import open_rgb
from sdxl_core.data.landmarks import FILE
from sdxl_core.data.records import Box, Record, read_records
from sdxl_core.errors import UserError
from sdxl_core.faces import Face
from sdxl_core.identity.face_model import WHERE
from sdxl_core.tensor_files import cell_key

VERSION = 1


class LandmarkDetector(Protocol):
    """Finds faces and their landmarks."""

    def faces(self, picture: Image.Image) -> list[Face]:
        """All faces in an upright RGB picture."""
        ...


def find_landmarks(
    *,
    dataset: Path,
    load: Callable[[], LandmarkDetector],
    detector_digest: str,
    out: Path,
    cells: MutableMapping[str, bytes],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write every picture's face into `landmarks.jsonl`: the one that the dataset tells of, else the largest.

    `load` is called only if there is a picture not in `cells`. Returns {"pictures", "faces", "detected"}: how many
    there are, in how many there is a face, and how many were not in `cells` before.

    Raises:
        UserError: a picture is in the dataset twice, with different faces; or nothing shows a face.
    """
    records = _by_sha256(read_records(dataset))
    keys = {
        sha256: cell_key(
            what="landmarks", version=VERSION, detector=detector_digest, image=sha256, face=record.face_box
        )
        for sha256, record in records.items()
    }
    missing = [sha256 for sha256, key in keys.items() if key not in cells]
    detector = load() if missing else None
    for done, sha256 in enumerate(missing, start=1):
        assert detector is not None
        with open_rgb(dataset / records[sha256].image) as picture:
            cells[keys[sha256]] = json.dumps(_points(detector.faces(picture), records[sha256])).encode()
        progress(done, len(missing))
    points = {sha256: json.loads(cells[key]) for sha256, key in keys.items()}
    found = sum(each is not None for each in points.values())
    if not found:
        fix = "Add pictures that show the face, or set training.consistency.identity_loss=null"
        raise UserError.about(WHERE, expected="pictures with faces", got="none", fix=fix)
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"image_sha256": sha256, "points": each}) + "\n" for sha256, each in points.items()]
    (out / FILE).write_text("".join(lines), encoding="utf-8")
    return {"pictures": len(points), "faces": found, "detected": len(missing)}


def _by_sha256(records: Sequence[Record]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in records:
        other = found.setdefault(record.sha256, record)
        if other.face_box != record.face_box:
            raise UserError.about(
                f"{other.source} and {record.source}",
                expected="one face, as they are one picture",
                got=f"boxes {other.face_box} and {record.face_box}",
            )
    return found


def _points(faces: Sequence[Face], record: Record) -> list[list[float]] | None:
    """Of the face that shares most with the dataset's box, or with the picture: the largest."""
    wanted = record.face_box or (0.0, 0.0, float(record.width), float(record.height))
    face = max(faces, key=lambda face: (_shared(face.box, wanted), face.box), default=None)
    if face is None or _shared(face.box, wanted) <= 0 or np.ptp(face.points_52, axis=0).min() < 1:
        return None  # points on one line or in one place are no face
    return [[float(x), float(y)] for x, y in face.points_52]


def _shared(a: Box, b: Box) -> float:
    """Area in both, in pixels."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
