"""Faces in pictures: found and recognised through insightface by a folder of ONNX models, one question for all who ask.

A pack has a detector of SCRFD's form (Guo et al. 2021, arXiv:2105.04714) and, to tell faces apart, a recogniser of
ArcFace's (Deng et al. 2019, arXiv:1801.07698).
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import cell_key
from eval.errors import EvalError, NotScored
from eval.images import Picture
from eval.questions import Answers, Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

VERSION = 1
LICENCE = "the pack's own; those of insightface are for non-commercial research only"
INSTALL = "pip install -e '.[faces]' -c constraints.txt"

# N faces, D width of an embedding (0 from a pack without a recogniser)


@dataclass(frozen=True, eq=False)
class Faces:
    """All faces in a picture, the largest first."""

    boxes_N4: NDArray[np.float64]
    """Left, top, right, bottom in the picture's pixels, cut at its edges."""
    embeddings_ND: NDArray[np.float64]
    """Of unit length."""

    def largest_D(self) -> NDArray[np.float64]:
        """Whose face it is. Raises NotScored where there is none, EvalError where the pack does not tell."""
        if self.embeddings_ND.shape[1] == 0:
            raise EvalError("pack: no recogniser in it; expected an ONNX model that makes a vector of a face")
        if not len(self.boxes_N4):
            raise NotScored("no face found")
        largest_D: NDArray[np.float64] = self.embeddings_ND[0]
        return largest_D


class FindFaces(Question["NDArray[np.uint8]"]):
    """Boxes and embeddings of all faces in a picture; `faces_of` reads the answer."""

    rows_at_once = 1
    keeps_pixels = True

    def __init__(self, pack: Path, digest: str, det_size: Sequence[int], det_thresh: float, device: str) -> None:
        if not pack.is_dir() or not any(pack.rglob("*.onnx")):  # or insightface would download one of that name
            raise EvalError(f"pack: {pack.name} is not a folder with ONNX models; expected an unpacked face pack")
        self._pack, self._det_size, self._det_thresh, self._device = pack, det_size, det_thresh, device
        self.spec = cell_key("faces", pack=digest, det_size=list(det_size), det_thresh=det_thresh, version=VERSION)

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> NDArray[np.uint8]:
        import numpy as np

        (image,) = images
        return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])  # RGB => BGR

    def answer(self, rows: Sequence[NDArray[np.uint8]]) -> list[bytes]:
        (bgr_HWC,) = rows
        with warnings.catch_warnings():  # insightface calls scikit-image in a way that scikit-image has deprecated
            warnings.simplefilter("ignore", FutureWarning)
            found = self._analysis.get(bgr_HWC)
        height, width, _ = bgr_HWC.shape
        return [_faces_bytes(found, width, height, "recognition" in self._analysis.models)]

    def free(self) -> None:
        self.__dict__.pop("_analysis", None)

    @cached_property
    def _analysis(self) -> Any:
        providers, place = providers_for(self._device)
        try:
            from insightface.app import FaceAnalysis

            analysis = FaceAnalysis(
                name=str(self._pack), allowed_modules=["detection", "recognition"], providers=providers
            )
        except AssertionError:  # how insightface says that no model finds faces
            raise EvalError(
                f"pack: {self._pack.name} has no face detector; expected one such as det_10g.onnx"
            ) from None
        except Exception as problem:  # other people's files: protobuf, ONNX Runtime and insightface each have their own
            raise EvalError(
                f"pack: {self._pack.name} cannot be loaded ({type(problem).__name__}: {problem})"
            ) from problem
        if "recognition" in analysis.models and not analysis.det_model.use_kps:
            raise EvalError(f"pack: the detector in {self._pack.name} gives no landmarks to bring faces upright by")
        sizes = [(side_px, side_px) for side_px in self._det_size]
        analysis.prepare(ctx_id=place, det_thresh=self._det_thresh, det_size=sizes)
        return analysis


def providers_for(device: str) -> tuple[list[Any], int]:
    """ONNX Runtime's providers for a torch device, and the GPU's number (-1: none).

    A runtime that was built for the CPU alone stays there.
    """
    import onnxruntime

    kind, _, number = device.partition(":")
    if kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        place = int(number or 0)
        return [("CUDAExecutionProvider", {"device_id": place}), "CPUExecutionProvider"], place
    return ["CPUExecutionProvider"], -1


def _faces_bytes(found: Iterable[Any], width_px: int, height_px: int, recognised: bool) -> bytes:
    """The number of columns, then a row of float32 for each face: its box, its embedding."""
    import numpy as np

    limits = np.array([width_px, height_px, width_px, height_px], dtype=np.float64)
    rows = []
    for face in found:
        box_4 = np.clip(np.asarray(face.bbox, dtype=np.float64), 0, limits)
        embedding_D = np.asarray(face.embedding if recognised else [], dtype=np.float64)
        unit_D = embedding_D / max(float(np.linalg.norm(embedding_D)), 1e-12)
        rows.append(np.concatenate([box_4, unit_D]))
    none = np.empty((0, 4 + recognised))  # its fifth column says that faces could be told apart
    table = np.array(sorted(rows, key=_area, reverse=True)) if rows else none
    return struct.pack("<I", table.shape[1]) + table.astype("<f4").tobytes()


def _area(row: NDArray[np.float64]) -> float:
    left, top, right, bottom = row[:4]
    return float((right - left) * (bottom - top))


def faces_of(answer: bytes) -> Faces:
    """What `FindFaces` answered."""
    import numpy as np

    (columns,) = struct.unpack_from("<I", answer)
    rows = np.frombuffer(answer, dtype="<f4", offset=4).reshape(-1, columns).astype(np.float64)
    return Faces(rows[:, :4], rows[:, 4:])


def reference_face(faces: FindFaces, references: Sequence[Picture]) -> Callable[[Answers], NDArray[np.float64]]:
    """A function that gives the mean, at unit length, of the largest faces in the instance pictures.

    Pictures without a face are left out; it raises EvalError where none has one, and for an unreadable picture.
    """
    known: list[NDArray[np.float64]] = []

    def mean_D(answers: Answers) -> NDArray[np.float64]:
        import numpy as np

        if not known:
            total_D = np.sum(_largest_faces(faces, references, answers), axis=0)
            known.append(total_D / max(float(np.linalg.norm(total_D)), 1e-12))
        return known[0]

    return mean_D


def _largest_faces(faces: FindFaces, references: Sequence[Picture], answers: Answers) -> list[NDArray[np.float64]]:
    found = []
    for picture in references:
        try:
            answer = answers(faces, picture)
        except NotScored as problem:
            raise EvalError(f"instance picture {picture.path.name}: {problem}; prepare the dataset again") from problem
        if len(faces_of(answer).boxes_N4):
            found.append(faces_of(answer).largest_D())
    if not found:
        raise EvalError(
            f"no face found in any of the {len(references)} instance pictures; expected one at least. Lower "
            "det_thresh, or leave this metric out"
        )
    return found
