"""Face similarity: is it the face of the instance pictures?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.embeddings import about_references
from eval.faces import VERSION, faces_of, reference_face
from eval.questions import Answers, about_each
from eval.scorers.base import Direction, Judge, Resources, Sample, Score
from eval.scorers.face_detection import FaceMetric


class FaceSimilarity(FaceMetric):
    """Cosine between the largest face's ArcFace embedding and the mean of the instance pictures' largest faces.

    Says nothing of pictures without a face: read it beside `face_detection`.
    """

    title: ClassVar[str] = "Face similarity"
    needs_references: ClassVar[bool] = True
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "cosine"
    convention: ClassVar[str] = (
        "cosine of the largest face with the mean, at unit length, of the instance pictures' largest faces; "
        "pictures without a face have no score"
    )
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = VERSION

    picture_fields: ClassVar[tuple[str, ...]] = ("pictures",)

    metric: Literal["face_similarity"]
    pictures: str | None = None
    """Folder of pictures to compare with. Default: the instance pictures. Data that changes by itself should not choose
    what it is judged by: name a folder that people have chosen."""

    def judge(self, resources: Resources) -> Judge:
        faces = self.faces(resources)
        reference_D = reference_face(faces, resources.instances)

        def score(sample: Sample, answers: Answers) -> Score:
            (picture,) = sample.pictures
            wanted_D = reference_D(answers)
            return Score(float(faces_of(answers(faces, picture)).largest_D() @ wanted_D))

        return Judge(score, about_each(faces), references=about_references(faces, resources.instances))
