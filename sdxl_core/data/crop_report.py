"""What training will see of a dataset's pictures: crops, buckets, faces and epochs, for the preflight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from statistics import median
from typing import Any

from sdxl_core.concepts import NO_CONCEPT, concept_settings
from sdxl_core.config import Config, PositiveInt, TransformConfig
from sdxl_core.data.buckets import refuse_mixed_sizes, sizes_of
from sdxl_core.data.crops import Crops
from sdxl_core.training_config import ConceptConfig

TableRow = tuple[str, str, list[str]]
"""label, figure, names to list below it"""


class EpochSpec(Config):
    """What decides how the pictures are seen, beside the pictures."""

    rows_per_step: PositiveInt
    concepts: dict[str, ConceptConfig]
    class_image_px: tuple[int, int] | None
    """Height and width of class images."""


def crop_summary(pictures: Sequence[Crops], transform: TransformConfig) -> dict[str, Any]:
    """See `preflight.summarise`."""
    each = transform.variants
    kept = [(_kept(picture), picture.record.source) for picture in pictures]
    share, source = min(kept, default=(1.0, ""))
    summary: dict[str, Any] = {
        "resolution_px": transform.resolution_px,
        "mode": transform.crop,
        "variants_per_picture": each,
        "training_pictures": each * len(pictures),
        "enlarged": list(dict.fromkeys(p.record.source for p in pictures if _scale(p) > 1)),
        "least_kept": {"source": source, "share": round(share, 4)} if kept else None,
    }
    if transform.buckets is not None and kept:
        summary["buckets"] = {
            "sizes": {str(size): count for size, count in sorted(Counter(p.size for p in pictures).items())},
            "median_kept": round(median(share for share, _ in kept), 4),
            "most_enlarged": round(float(max(_scale(p) for p in pictures)), 4),
        }
    if transform.crop == "face":
        summary["without_face"] = list(dict.fromkeys(p.record.source for p in pictures if p.face is None))
    return summary


def epoch_summary(pictures: Sequence[Crops], transform: TransformConfig, epoch: EpochSpec) -> dict[str, Any]:
    """See `preflight.summarise`.

    Raises:
        UserError: settings for a concept that is not there, or class images of another size than the pictures.
    """
    if epoch.class_image_px is not None:
        classes = sizes_of(*epoch.class_image_px, transform)
        refuse_mixed_sizes({str(p.size) for p in pictures}, {str(size) for size in classes})
    settings = concept_settings([p.record.concept for p in pictures], epoch.concepts)
    rows: dict[str, float] = {}
    for picture, each in zip(pictures, settings, strict=True):
        name = picture.record.concept or NO_CONCEPT
        rows[name] = rows.get(name, 0.0) + picture.share * each.repeats
    total = sum(rows.values())
    return {"rows": total, "steps": total / epoch.rows_per_step, "rows_of": dict(sorted(rows.items()))}


def crop_rows(crops: dict[str, Any]) -> Iterator[TableRow]:
    """`crop_summary` as lines of the table."""
    side, each, buckets = crops["resolution_px"], crops["variants_per_picture"], crops.get("buckets")
    shape = f"in {len(buckets['sizes'])} buckets" if buckets else f"of {side} x {side} px"
    yield "crops", f"{crops['training_pictures']} {shape} ({crops['mode']}, {each} a picture)", []
    if buckets:
        names = [f"{size}: {count}" for size, count in buckets["sizes"].items()]
        yield (
            "buckets",
            f"height x width: pictures; none is left out, {buckets['median_kept']:.0%} kept (median)",
            names,
        )
    if least := crops["least_kept"]:
        yield "least kept", f"{least['share']:.0%} of {least['source']}", []
    if enlarged := crops["enlarged"]:
        smaller = (
            f"smaller than their bucket, up to {buckets['most_enlarged']:.3g} times"
            if buckets
            else f"smaller than {side} px"
        )
        yield "enlarged", f"{len(enlarged)} {smaller}", list(enlarged)
    if faceless := crops.get("without_face"):
        yield "without a face", f"{len(faceless)}; their center is kept", list(faceless)


def epoch_rows(epoch: Mapping[str, Any]) -> Iterator[TableRow]:
    """`epoch_summary` as lines of the table."""
    names = [f"{name}: {rows:g} rows" for name, rows in epoch["rows_of"].items()] if len(epoch["rows_of"]) > 1 else []
    yield "epoch", f"{epoch['rows']:g} rows, {epoch['steps']:g} steps", names


def _scale(picture: Crops) -> Fraction:
    return picture.size.scale_of(picture.record.height, picture.record.width)


def _kept(picture: Crops) -> float:
    """The part of a picture's area inside one crop."""
    area = picture.record.height * picture.record.width * _scale(picture) ** 2
    return float(picture.size.area / area)
