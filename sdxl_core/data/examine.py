"""Looking at every picture of a dataset, and telling all that is wrong with it at once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.config import DatasetConfig
from sdxl_core.data.decode import BadPicture, decode, read_picture
from sdxl_core.data.formats import SUFFIXES
from sdxl_core.data.masks import Masks
from sdxl_core.data.records import Box, Record
from sdxl_core.data.sources import SOURCES
from sdxl_core.data.sources.base import Problem, Row
from sdxl_core.errors import UserError

MOST_NAMED = 200  # problems spelt out in one message; further ones are counted

Progress = Callable[[int, int], None]
log = logging.getLogger(__name__)


def no_progress(done: int, total: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Examination:
    """What is in a dataset, in the source's order."""

    records: tuple[Record, ...]
    problems: tuple[Problem, ...]
    several_frames: tuple[str, ...]
    """Pictures of which only the first frame is used."""


def examine(
    config: DatasetConfig,
    keep: Callable[[str, bytes], None] = lambda name, data: None,
    progress: Progress = no_progress,
) -> Examination:
    """Read and decode every picture of a dataset, one at a time.

    `keep` gets the name (inside the artifact) and the bytes of each good one, and of its mask.

    Raises:
        UserError: the configuration does not fit the dataset at all. Bad pictures and rows are among the problems.
    """
    listing = SOURCES[config.source].listing(config)
    masks = Masks(config) if config.masks is not None else None
    records, problems, several_frames = list[Record](), list[Problem](), list[str]()
    for done, entry in enumerate(listing.entries, start=1):
        seen = _look(entry, masks, config.max_megapixels) if isinstance(entry, Row) else entry
        if isinstance(seen, Problem):
            problems.append(seen)
        else:
            for name, data in seen.files.items():
                keep(name, data)
            records.append(seen.record)
            if seen.frames > 1:
                several_frames.append(seen.record.source)
        progress(done, listing.total)
    return Examination(tuple(records), tuple(problems), tuple(several_frames))


def refuse_if_bad(config: DatasetConfig, found: Examination) -> None:
    """Hold an examination against `config.on_bad_image`; what is let pass is logged.

    Raises:
        UserError: naming every problem.
    """
    bad, share = len(found.problems), len(found.problems) / max(1, len(found.problems) + len(found.records))
    refused = [problem for problem in found.problems if problem.always_refused]
    if config.on_bad_image == "error" and found.problems:
        raise _refusal(config, found.problems, "Mend or remove them, or set dataset.on_bad_image to skip")
    if refused:
        raise _refusal(config, refused, "These are refused with on_bad_image: skip, too")
    if share > config.max_bad_share:
        fix = f"That is {share:.1%} of all, more than dataset.max_bad_share = {config.max_bad_share:.1%}"
        raise _refusal(config, found.problems, fix)
    if not found.records:
        raise UserError.about(f"dataset {config.path}", expected="at least one picture", got="none")
    for problem in found.problems:
        log.warning("left out (%d in all): %s: %s", bad, problem.where, problem.reason)


@dataclass(frozen=True)
class _Seen:
    record: Record
    files: dict[str, bytes]
    frames: int


def _look(row: Row, masks: Masks | None, max_megapixels: float) -> _Seen | Problem:
    try:
        data = row.picture if isinstance(row.picture, bytes) else read_picture(row.picture, max_megapixels)
        decoded = decode(data, max_megapixels)
        mask = masks.file_of(row.source, decoded) if masks is not None else None
        face_box = _inside(row.face_box, decoded.image.width, decoded.image.height)
    except BadPicture as error:
        return Problem(row.source, str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    image = f"images/{sha256}.{SUFFIXES[decoded.format]}"
    record = Record(
        image=image,
        sha256=sha256,
        width=decoded.image.width,
        height=decoded.image.height,
        text=row.text,
        concept=row.concept,
        source=row.source,
        mask=None if masks is None else mask.name if mask is not None else image,
        face_box=face_box,
    )
    return _Seen(record, {image: data} | ({mask.name: mask.data} if mask is not None else {}), decoded.frames)


def _inside(box: Box | None, width: int, height: int) -> Box | None:
    """The part of a face's box that is in the picture; a face may reach over its edge."""
    if box is None:
        return None
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    if left >= right or top >= bottom:
        raise BadPicture(f"the face box {list(box)} lies outside the {width} x {height} px; is it of another size?")
    return left, top, right, bottom


def _refusal(config: DatasetConfig, problems: list[Problem] | tuple[Problem, ...], fix: str) -> UserError:
    named = [f"  {problem.where}: {problem.reason}" for problem in problems[:MOST_NAMED]]
    if len(problems) > MOST_NAMED:
        named.append(f"  and {len(problems) - MOST_NAMED} more")
    count = "1 entry" if len(problems) == 1 else f"{len(problems)} entries"
    return UserError("\n".join([f"dataset {Path(config.path).name}: {count} cannot be used:", *named, f"{fix}."]))
