"""Masks: where a picture's loss counts. White counts, black does not; from a folder, or the picture's own alpha."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sdxl_core.config import DatasetConfig
from sdxl_core.data.decode import BadPicture, Decoded, decode, read_picture
from sdxl_core.data.formats import SUFFIXES
from sdxl_core.data.mask_files import masks_by_stem, stem_of
from sdxl_core.data.records import Record
from sdxl_core.errors import UserError


@dataclass(frozen=True)
class MaskFile:
    """A mask as it goes into the dataset artifact."""

    name: str
    """Inside the artifact."""
    data: bytes


class Masks:
    """The masks of a dataset; see `DatasetConfig.masks`.

    Raises (on creation): UserError when the folder is not there.
    """

    def __init__(self, config: DatasetConfig) -> None:
        self.max_megapixels = config.max_megapixels
        self.root = None if config.masks == "alpha" else Path(str(config.masks)).expanduser()
        self.names: Mapping[str, list[str]] = {} if self.root is None else masks_by_stem(self.root)

    def file_of(self, source: str, picture: Decoded) -> MaskFile | None:
        """The mask of the picture `source`; None where it is the picture's own alpha.

        Raises:
            BadPicture: there is none, it does not fit the picture, or nothing in it is white.
        """
        if self.root is None:
            _refuse_unfit(picture.alpha, picture, "transparency")
            return None
        stem = stem_of(source)
        found = self.names.get(stem, [])
        if len(found) != 1:
            got = f"{' and '.join(found)} are all of that name" if found else "there is none"
            raise BadPicture(f"expected one mask {stem}.* in dataset.masks, {got}")
        try:
            data = read_picture(self.root / found[0], self.max_megapixels)
            decoded = decode(data, self.max_megapixels)
            if decoded.alpha is not None and decoded.alpha.getextrema() != (255, 255):
                raise BadPicture("has transparency itself; save it as grey, or use dataset.masks: alpha")
            _refuse_unfit(decoded.image.convert("L"), picture, "mask")
        except BadPicture as error:
            raise BadPicture(f"mask {found[0]}: {error}") from None
        return MaskFile(f"masks/{hashlib.sha256(data).hexdigest()}.{SUFFIXES[decoded.format]}", data)


def read_mask(folder: Path, record: Record) -> Image.Image:
    """The mask of a dataset artifact's picture, 8-bit grey of the picture's size.

    Raises:
        UserError: the dataset was prepared without masks.
    """
    if record.mask is None:
        fix = "Set dataset.masks to a folder or to alpha"
        raise UserError.about(f"picture {record.source}", expected="a mask", got="none", fix=fix)
    decoded = decode((folder / record.mask).read_bytes())
    alpha = decoded.alpha if record.mask == record.image else None
    return alpha if alpha is not None else decoded.image.convert("L")


def _refuse_unfit(mask: Image.Image | None, picture: Decoded, what: str) -> None:
    if mask is None:
        raise BadPicture(f"no {what}, and dataset.masks is alpha; save it with an alpha channel")
    if mask.size != picture.image.size:
        here, there = (f"{image.width} x {image.height} px" for image in (mask, picture.image))
        raise BadPicture(f"{here}, and its picture {there}; make both of one size")
    if mask.getextrema()[1] == 0:
        raise BadPicture(f"the {what} leaves nothing of the picture to learn from")
