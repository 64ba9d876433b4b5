"""Frame background: is it the same place in all frames of a storyboard?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from eval.backbones import clip_or_vit
from eval.background import VERSION, BackgroundVision
from eval.embeddings import vector_D
from eval.errors import NotScored
from eval.faces import LICENCE
from eval.frames import answer_about, likeness
from eval.questions import Answers, about_each
from eval.scorers.base import Direction, Judge, Kind, Resources, Sample, Score
from eval.scorers.face_detection import FaceMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FrameBackground(FaceMetric):
    """Mean cosine between the embeddings of any two frames, with people painted over.

    After VBench's background consistency (see eval/frames.py), which embeds whole frames; that is `frame_likeness` with
    a CLIP model.
    """

    title: ClassVar[str] = "Frame background"
    scored: ClassVar[Kind] = "board"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "cosine"
    convention: ClassVar[str] = (
        "mean cosine over all pairs of a storyboard's frames, not clamped. Every face found is painted over in the "
        "network's neutral colour, with half its width on each side and half its height above it, and so is the body, "
        "3 of its widths and 8 of its heights below it. Frames of which less than a tenth is left are left out and "
        "counted"
    )
    licence: ClassVar[str] = f"that of the network's weights; faces: {LICENCE}"
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("model", "pack")
    weights_from: ClassVar[str] = (
        "model: from the hub, openai/clip-vit-base-patch32 or facebook/dino-vits16; pack: insightface's model packs, "
        "such as buffalo_l, for non-commercial research only"
    )
    weight_suffixes: ClassVar[tuple[str, ...]] = (".json", ".txt", ".model", ".safetensors", ".onnx")

    metric: Literal["frame_background"]
    model: str
    """Folder or hub id of a transformers CLIP model, DINO or DINOv2; its config.json says which."""
    revision: str | None = None
    """Hub commit or tag, of `model`."""

    def judge(self, resources: Resources) -> Judge:
        faces = self.faces(resources)
        vision = clip_or_vit(resources.weights["model"], resources.digests["model"], resources.device)
        background = BackgroundVision(vision, faces, resources.cells)

        def score(sample: Sample, answers: Answers) -> Score:
            vectors: list[NDArray[np.float64]] = []
            for frame in sample.pictures:
                answer_about(faces, frame, answers)  # none: the picture cannot be read
                try:
                    vectors.append(vector_D(answers(background, frame)))
                except NotScored:
                    continue
            return likeness(vectors, sample, "show their background")

        return Judge(score, about_each(faces, background))
