"""Which crops a dataset's pictures are trained in: worked out from records alone, before any picture is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdxl_core.config import TransformConfig
from sdxl_core.data.buckets import Size, sizes_of
from sdxl_core.data.records import Box, Record


@dataclass(frozen=True, slots=True)
class Crops:
    """One picture at one size."""

    record: Record
    size: Size
    face: Box | None
    """What `crop: face` keeps inside."""
    share: float
    """How often it is seen in an epoch. A picture that is too small for some resolutions is seen more often at the
    others, so that every picture is seen once per resolution."""

    def decisive(self, transform: TransformConfig) -> dict[str, Any]:
        """All that decides the pixels of its crops and what is said of them, as JSON."""
        settings = transform.model_dump(mode="json", include={"crop", "crops_per_image", "flip"})
        face = [self.face, transform.face.margin] if self.face is not None else None
        return {"image": self.record.sha256, "size": str(self.size), "face": face, **settings}


def plan_crops(records: Sequence[Record], transform: TransformConfig, found: Mapping[str, Box | None]) -> list[Crops]:
    """Every picture at every one of its sizes, in the order of the records.

    `found` are faces by the pictures' sha256, for those whose dataset tells none.
    """
    planned = []
    for record in records:
        sizes = sizes_of(record.height, record.width, transform)
        face = (record.face_box or found.get(record.sha256)) if transform.crop == "face" else None
        share = len(transform.base_resolutions_px) / len(sizes)
        planned += [Crops(record, size, face, share) for size in sizes]
    return planned
