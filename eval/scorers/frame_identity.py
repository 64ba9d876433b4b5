"""Frame identity: is it the same face in all frames of a storyboard?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.faces import VERSION, faces_of
from eval.frames import answer_about, likeness
from eval.questions import Answers, about_each
from eval.scorers.base import Direction, Judge, Kind, Resources, Sample, Score
from eval.scorers.face_detection import FaceMetric


class FrameIdentity(FaceMetric):
    """Mean cosine between the ArcFace embeddings of the largest faces of any two frames.

    Says nothing of frames without a face: read it beside `face_detection`.
    """

    title: ClassVar[str] = "Frame identity"
    scored: ClassVar[Kind] = "board"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "cosine"
    convention: ClassVar[str] = (
        "mean cosine of the largest faces over all pairs of a storyboard's frames, not clamped; frames without a face "
        "are left out and counted, and two with one are the least"
    )
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = VERSION

    metric: Literal["frame_identity"]

    def judge(self, resources: Resources) -> Judge:
        faces = self.faces(resources)

        def score(sample: Sample, answers: Answers) -> Score:
            found = [faces_of(answer_about(faces, frame, answers)) for frame in sample.pictures]
            return likeness([faces.largest_D() for faces in found if len(faces.boxes_N4)], sample, "show a face")

        return Judge(score, about_each(faces))
