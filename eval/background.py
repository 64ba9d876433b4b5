"""What pictures show beside people, embedded: where a face is found, the person below it is painted over."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING

from eval.cells import cell_key
from eval.errors import EvalError, NotScored
from eval.faces import FindFaces, faces_of
from eval.images import Picture
from eval.questions import Answers, Question
from eval.vision import Vision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

VERSION = 1
HAIR_SIDEWAYS, HAIR_ABOVE = 0.5, 0.5
BODY_SIDEWAYS, BODY_BELOW = 1.0, 8.0
"""How far a person reaches out of a face's box, on each side, in its widths and heights: hair down to the chin, the
body from there on. A box, from brow to chin, is about 4/5 of a head; a standing adult is about 7 1/2 heads tall and 2
to 3 wide at the shoulders."""
LEAST_LEFT = 0.1


class BackgroundVision(Question["NDArray[np.float32]"]):
    """The unit-length embedding of a picture without its people; one without a face stays as it is."""

    reads_answers = True

    def __init__(self, vision: Vision, faces: FindFaces, cells: MutableMapping[str, bytes]) -> None:
        self._vision, self._faces, self._answers = vision, faces, Answers(cells)
        self.rows_at_once = vision.rows_at_once
        self.spec = cell_key("background", vision=vision.spec, faces=faces.spec, version=VERSION)

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> NDArray[np.float32]:
        (picture,), (image,) = pictures, images
        try:
            boxes_N4 = faces_of(self._answers(self._faces, picture)).boxes_N4
        except KeyError:
            raise EvalError("faces could not be looked for") from None
        return self._vision.prepare(pictures, [without_people(image, boxes_N4, self._vision.neutral_rgb())])

    def answer(self, rows: Sequence[NDArray[np.float32]]) -> list[bytes]:
        return self._vision.answer(rows)

    def free(self) -> None:
        self._vision.free()


def without_people(image: Image.Image, boxes_N4: NDArray[np.float64], paint: tuple[int, int, int]) -> Image.Image:
    """Raises NotScored where less than a tenth of the picture is left."""
    import numpy as np
    from PIL import Image

    pixels_HWC = np.array(image)
    hidden_HW = np.zeros(pixels_HWC.shape[:2], dtype=bool)
    for left, top, right, bottom in boxes_N4:
        width, height = right - left, bottom - top
        hair, body = HAIR_SIDEWAYS * width, BODY_SIDEWAYS * width
        hidden_HW[_pixels(top - HAIR_ABOVE * height, bottom), _pixels(left - hair, right + hair)] = True
        hidden_HW[_pixels(bottom, bottom + BODY_BELOW * height), _pixels(left - body, right + body)] = True
    if 1 - hidden_HW.mean() < LEAST_LEFT:
        raise NotScored("people fill more than nine tenths of the picture")
    pixels_HWC[hidden_HW] = paint
    return Image.fromarray(pixels_HWC)


def _pixels(start: float, end: float) -> slice:
    """Those that any of it lies in."""
    return slice(max(0, math.floor(start)), max(0, math.ceil(end)))
