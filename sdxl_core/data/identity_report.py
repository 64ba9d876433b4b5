"""What the identity loss will see of a dataset's pictures, for the preflight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdxl_core.config import TransformConfig
from sdxl_core.data.crop_report import TableRow
from sdxl_core.data.crops import Crops
from sdxl_core.data.landmarks import Points, are_shown, points_of
from sdxl_core.identity.face_model import LICENCE


def identity_summary(
    pictures: Sequence[Crops], transform: TransformConfig, found: Mapping[str, Points | None]
) -> dict[str, Any]:
    """See `preflight.summarise`."""
    shown, training_pictures = 0, 0
    without, cut = [], []
    for picture in pictures:
        points = points_of(picture, transform, found)
        whole = [are_shown(points_52, picture) for points_52 in points or ()]
        shown += sum(whole)
        training_pictures += transform.variants
        if points is None:
            without.append(picture.record.source)
        elif not all(whole):
            cut.append(picture.record.source)
    return {
        "training_pictures": training_pictures,
        "shown": shown,
        "without_face": list(dict.fromkeys(without)),
        "cut_face": list(dict.fromkeys(cut)),
    }


def identity_rows(identity: Mapping[str, Any]) -> Iterator[TableRow]:
    """`identity_summary` as lines of the table."""
    yield "identity loss", f"in {identity['shown']} of {identity['training_pictures']}; {LICENCE}", []
    if without := identity["without_face"]:
        yield "no face found", f"{len(without)}; they get no identity loss", list(without)
    if cut := identity["cut_face"]:
        yield "face cut off", f"{len(cut)}, in some crop at least; that gets no identity loss", list(cut)
