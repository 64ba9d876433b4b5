"""What the identity loss holds the training pictures' faces against, worked out once.

The artifact has the rows of the latents artifact: where the face is in every training picture, and the recogniser's
embedding of the face in the picture that it was made from, as it is and mirrored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdxl_core.config import TransformConfig
from sdxl_core.data.crops import Crops, plan_crops
from sdxl_core.data.decode import open_rgb
from sdxl_core.data.faces import read_faces
from sdxl_core.data.landmarks import Points, are_shown, mirrored, points_of, read_landmarks
from sdxl_core.data.records import read_records
from sdxl_core.errors import UserError
from sdxl_core.identity.alignment import aligned, alignment_of
from sdxl_core.identity.face_model import TEMPLATE_PX, WHERE
from sdxl_core.identity.recogniser import FaceRecogniser
from sdxl_core.runtime import choose_device
from sdxl_core.tensor_files import cell_key, pack, unpack, write_tensors

# N pictures, V variants (crops, mirrored or not), D width of embeddings, 23: affine matrix, 52: five points

VERSION = 1
TENSORS_FILE, INDEX_FILE = "identity.safetensors", "index.jsonl"


def embed_faces(
    *,
    transform: TransformConfig,
    dataset: Path,
    landmarks: Path,
    recogniser: Path,
    recogniser_digest: str,
    out: Path,
    cells: MutableMapping[str, bytes],
    faces: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write `identity.safetensors` and `index.jsonl`.

    `landmarks` and `faces` (what decided the crops, if a detector did) are artifacts of those names. A training picture
    shows its face where all five points lie in it.

    Returns {"pictures", "shown", "embedded"}: how many there are, how many training pictures of them show their face,
    and how many pictures were not in `cells` before.

    Raises:
        UserError: the recogniser is none, or no training picture shows a face.
    """
    pictures = plan_crops(read_records(dataset), transform, read_faces(faces) if faces is not None else {})
    found = read_landmarks(landmarks)
    where = choose_device(device)
    network = FaceRecogniser.load(recogniser, where)
    seen = {p.record.sha256: p for p in pictures if found[p.record.sha256] is not None}
    keys = {
        sha256: cell_key(
            what="identity", version=VERSION, recogniser=recogniser_digest, image=sha256, points=_listed(found[sha256])
        )
        for sha256 in seen
    }
    missing = [sha256 for sha256, key in keys.items() if key not in cells]
    for done, sha256 in enumerate(missing, start=1):
        points = found[sha256]
        assert points is not None
        with open_rgb(dataset / seen[sha256].record.image) as picture:
            cells[keys[sha256]] = pack({"embedding_2D": _embeddings(network, picture, points, where)})
        progress(done, len(missing))
    embeddings = {sha256: unpack(cells[key])["embedding_2D"] for sha256, key in keys.items()}
    tensors = _stacked(pictures, transform, found, embeddings)
    shown = int(tensors["shown_NV"].sum())
    if not shown:
        fix = "Set transform.crop=face, or training.consistency.identity_loss=null"
        raise UserError.about(WHERE, expected="crops with faces", got="none", fix=fix)
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / TENSORS_FILE, tensors)
    lines = [json.dumps({"image_sha256": p.record.sha256, "size": str(p.size)}) + "\n" for p in pictures]
    (out / INDEX_FILE).write_text("".join(lines), encoding="utf-8")
    return {"pictures": len(found), "shown": shown, "embedded": len(missing)}


def _listed(points_52: Points | None) -> list[list[float]]:
    assert points_52 is not None
    return [[float(x), float(y)] for x, y in points_52]


@torch.no_grad()
def _embeddings(network: FaceRecogniser, picture: Image.Image, points_52: Points, device: torch.device) -> Tensor:
    """2 x D: of the face as it is, and mirrored."""
    face, inside_52 = _around(picture, points_52)
    pixels_CHW = torch.from_numpy(np.array(face, dtype=np.float32)).permute(2, 0, 1).to(device) / 127.5 - 1
    matrices = (alignment_of(inside_52), alignment_of(mirrored(inside_52, face.width)))
    pair = [
        aligned(pixels, torch.from_numpy(matrix))
        for pixels, matrix in zip((pixels_CHW, pixels_CHW.flip(-1)), matrices, strict=True)
    ]
    return network(torch.stack(pair)).cpu()  # type: ignore[no-any-return]


def _around(picture: Image.Image, points_52: Points) -> tuple[Image.Image, Points]:
    """The part of a picture that the aligned face shows, and the points in it: pictures may be large."""
    ends = np.array([[x, y, 1] for x in (-1, TEMPLATE_PX) for y in (-1, TEMPLATE_PX)])
    corners = ends @ alignment_of(points_52).T
    low = np.clip(np.floor(corners.min(0)) - 1, 0, [picture.width - 1, picture.height - 1])
    high = np.clip(np.ceil(corners.max(0)) + 2, low + 1, [picture.width, picture.height])
    left, top, right, bottom = (int(edge) for edge in (*low, *high))
    return picture.crop((left, top, right, bottom)), points_52 - low


def _stacked(
    pictures: Sequence[Crops],
    transform: TransformConfig,
    found: dict[str, Points | None],
    embeddings: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Rows without a face are zeros."""
    variants = transform.variants
    width = next(iter(embeddings.values())).shape[1]
    alignment_NV23 = torch.zeros(len(pictures), variants, 2, 3)
    shown_NV = torch.zeros(len(pictures), variants)
    embedding_NVD = torch.zeros(len(pictures), variants, width)
    for row, picture in enumerate(pictures):
        for variant, points_52 in enumerate(points_of(picture, transform, found) or ()):
            alignment_NV23[row, variant] = torch.from_numpy(alignment_of(points_52))
            shown_NV[row, variant] = float(are_shown(points_52, picture))
            embedding_NVD[row, variant] = embeddings[picture.record.sha256][variant % 2 if transform.flip else 0]
    return {"alignment_NV23": alignment_NV23, "shown_NV": shown_NV, "embedding_NVD": embedding_NVD}
