"""The miniature's face pack without insightface: what its models compute, and that fitting makes such models."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sdxl_core.identity.recogniser import FaceRecogniser
from sdxl_core.miniature.face_discriminants import aligned_faces, appearance, head_center
from sdxl_core.miniature.face_pack import MOST_FACES, write_face_pack
from sdxl_core.miniature.render import SIDE_PX, render, render_empty
from sdxl_core.miniature.world import draw_person, draw_view

PACK = Path(__file__).parents[2] / "sdxl_core" / "miniature" / "weights" / "faces"


def detect(model: Path, picture: Image.Image) -> list[NDArray[np.float32]]:
    """Scores, boxes and points of the first anchors at stride 8, in the picture's pixels."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pixels = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1)[None]
    outputs = session.run(None, {"input.1": (pixels - 127.5) / 128})
    assert [out.shape for out in outputs] == [
        (2 * (picture.height // stride) * (picture.width // stride), width)
        for width in (1, 4, 10)
        for stride in (8, 16, 32)
    ]
    scores, boxes, points = (outputs[place][:MOST_FACES] for place in (0, 3, 6))
    anchors = np.array([[8.0 * (i // 2), 0] for i in range(MOST_FACES)])
    boxes = np.hstack([anchors - 8 * boxes[:, :2], anchors + 8 * boxes[:, 2:]])
    return [scores[:, 0], boxes, 8 * points.reshape(-1, 5, 2) + anchors[:, None]]


def scaled(picture: Image.Image) -> Image.Image:
    """As insightface shows it to a detector, at the smaller of its own sizes."""
    return picture.resize((128, 128), Image.Resampling.BILINEAR)


def check_detector(model: Path) -> None:
    for number in range(6):
        rng = random.Random(f"test-face-pack/{number}")
        person, view = draw_person(rng, "photo"), draw_view(rng)
        scores, boxes, points = detect(model, scaled(render(person, view)))
        assert scores[0] > 0.5 and (scores[1:] < 0.5).all()
        assert (boxes[0, :2] + boxes[0, 2:]) / 256 == pytest.approx(head_center(view), abs=2 / SIDE_PX)
        assert (boxes[0, :2] < points[0]).all() and (points[0] < boxes[0, 2:]).all()
        scores, _, _ = detect(model, scaled(render_empty(rng)))
        assert (scores < 0.5).all()


def check_recogniser(model: Path) -> None:
    rng = random.Random("test-face-pack")
    shown = [appearance(f"test-face-pack/{who}", i) for who in range(6) for i in range(2)]
    crops = aligned_faces([render(*one) for one in shown], [view for _, view in shown], rng)
    crops_N3HW = (crops / 127.5 - 1).requires_grad_(True)
    embeddings = FaceRecogniser.load(model, torch.device("cpu"))(crops_N3HW)
    cosines = embeddings @ embeddings.T
    pairs = torch.arange(12) // 2
    same = (pairs[:, None] == pairs) & ~torch.eye(12, dtype=torch.bool)
    assert cosines[same].min() > 0.7 and cosines[pairs[:, None] != pairs].mean() < 0.3
    cosines[same].sum().backward()
    assert crops_N3HW.grad is not None and crops_N3HW.grad.isfinite().all() and crops_N3HW.grad.any()


def test_the_shipped_models_find_faces_and_tell_people_apart() -> None:
    """The recogniser through the identity loss's own reading of ONNX."""
    check_detector(PACK / "detector.onnx")
    check_recogniser(PACK / "recogniser.onnx")


def test_the_shipped_models_are_those_of_the_manifests() -> None:
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in PACK.iterdir()}
    tasks = json.loads((PACK / "manifest.json").read_text())["tasks"]
    assert {task["file"]: task["sha256"] for task in tasks.values()} == {
        name: digest for name, digest in digests.items() if name.endswith(".onnx")
    }
    files = json.loads((PACK.parent / "manifest.json").read_text())["files"]
    assert {f"faces/{name}": digest for name, digest in digests.items()}.items() <= files.items()
    assert sum(path.stat().st_size for path in PACK.iterdir()) < 200_000


@pytest.mark.slow
def test_fitting_makes_such_models(tmp_path: Path) -> None:
    """A minute or two; the bytes may be others on another machine."""
    write_face_pack(tmp_path)
    check_detector(tmp_path / "detector.onnx")
    check_recogniser(tmp_path / "recogniser.onnx")
