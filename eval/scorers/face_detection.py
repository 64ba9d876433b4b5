"""Face detection: is there a face in the picture?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from eval.faces import INSTALL, LICENCE, VERSION, FindFaces, faces_of
from eval.questions import Answers, about_each
from eval.scorers.base import Direction, Judge, Metric, Resources, Sample, Score


def _local(place: str) -> str:
    if not place.startswith("/"):
        raise ValueError(f"expected a local folder, beginning with / or ./, got {place!r}; no pack is ever downloaded")
    return place


Side = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]


class FaceMetric(Metric):
    """Base of the metrics that ask a face pack; with the same settings they share one answer a picture."""

    licence: ClassVar[str] = LICENCE
    weight_fields: ClassVar[tuple[str, ...]] = ("pack",)
    weights_from: ClassVar[str] = "insightface's model packs, such as buffalo_l; for non-commercial research only"
    weight_suffixes: ClassVar[tuple[str, ...]] = (".onnx", ".json")
    packages: ClassVar[Mapping[str, str]] = {"insightface": INSTALL}

    pack: Annotated[str, AfterValidator(_local)]
    """Folder with a face pack's ONNX models, such as an unpacked `buffalo_l`. Nothing is ever downloaded."""
    det_size: Annotated[tuple[Side, ...], Field(min_length=1)] = (128, 640)
    """Sides in px of the squares that a picture is scaled into before faces are looked for in it, one pass each.
    640 alone misses faces that fill the picture, as portraits' do; 128 finds these. A detector of fixed size keeps its
    own."""
    det_thresh: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """How sure the detector must be of a face."""

    def faces(self, resources: Resources) -> FindFaces:
        """What this metric asks about each picture."""
        pack, digest = resources.weights["pack"], resources.digests["pack"]
        return FindFaces(pack, digest, self.det_size, self.det_thresh, resources.device)


class FaceDetection(FaceMetric):
    """1 where a face is found, else 0; its mean is the detection rate."""

    title: ClassVar[str] = "Faces found"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "share of pictures"
    convention: ClassVar[str] = "1 where the pack's detector finds a face or several, else 0"
    decimals: ClassVar[int] = 3
    version: ClassVar[int] = VERSION

    metric: Literal["face_detection"]

    def judge(self, resources: Resources) -> Judge:
        faces = self.faces(resources)

        def score(sample: Sample, answers: Answers) -> Score:
            (picture,) = sample.pictures
            return Score(float(len(faces_of(answers(faces, picture)).boxes_N4) > 0))

        return Judge(score, about_each(faces))
