"""How good the miniature's face pack is, through insightface: `python -m sdxl_core.miniature.measure_faces WEIGHTS`.

On people and scenes that the pack has not learned from.
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdxl_core.miniature.face_discriminants import appearance, head_center
from sdxl_core.miniature.measure import fresh_people, generate
from sdxl_core.miniature.render import SIDE_PX, render, render_empty
from sdxl_core.miniature.world import CHARACTERS, STYLE, draw_person, draw_view

PICTURES = 200
PEOPLE, EACH = 60, 5


class FacePack:
    """insightface itself, as it loads any pack, with its defaults."""

    def __init__(self, folder: Path) -> None:
        from insightface.app import FaceAnalysis

        self.analysis = FaceAnalysis(name=str(folder.resolve()), providers=["CPUExecutionProvider"])
        self.analysis.prepare(ctx_id=-1)

    def faces(self, picture: Image.Image) -> list[Any]:
        with warnings.catch_warnings():  # of scikit-image
            warnings.simplefilter("ignore", FutureWarning)
            return list(self.analysis.get(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])))


def shares(pack: FacePack, pictures: Sequence[Image.Image]) -> dict[str, float]:
    """Of pictures with a face or more, and with two or more."""
    counts = np.array([len(pack.faces(picture)) for picture in pictures])
    return {"a face": float((counts > 0).mean()), "several": float((counts > 1).mean())}


def found_in_styles(pack: FacePack) -> dict[str, object]:
    found: dict[str, object] = {}
    for style in STYLE:
        rngs = [random.Random(f"measure-faces/{style}/{i}") for i in range(PICTURES)]
        found[style] = shares(pack, [render(draw_person(rng, style), draw_view(rng)) for rng in rngs])
        found[f"{style}, nobody there"] = shares(pack, [render_empty(rng, style) for rng in rngs])
    return found


def placing_px(pack: FacePack) -> dict[str, float]:
    """How far boxes' middles are from the drawn faces', photographs."""
    away = []
    for i in range(PICTURES):
        rng = random.Random(f"measure-faces/place/{i}")
        person, view = draw_person(rng, "photo"), draw_view(rng)
        for face in pack.faces(render(person, view))[:1]:
            left, top, right, bottom = face.bbox
            x, y = head_center(view)
            away.append(np.hypot((left + right) / 2 - x * SIDE_PX, (top + bottom) / 2 - y * SIDE_PX))
    return {"mean": float(np.mean(away)), "most": float(np.max(away))}


def similarity(pack: FacePack, people: Sequence[Sequence[Image.Image]]) -> dict[str, float]:
    """Cosines within a person and between two, and how often one within is above one between (area under ROC)."""
    embeddings, owners = [], []
    for owner, pictures in enumerate(people):
        for picture in pictures:
            for face in pack.faces(picture)[:1]:
                embeddings.append(face.normed_embedding)
                owners.append(owner)
    cosines = np.array(embeddings) @ np.array(embeddings).T
    alike = np.equal.outer(owners, owners)
    same: NDArray[np.float64] = cosines[alike & ~np.eye(len(owners), dtype=bool)]
    other: NDArray[np.float64] = np.sort(cosines[~alike])
    return {
        "same": float(same.mean()),
        "same, lowest twentieth": float(np.quantile(same, 0.05)),
        "other": float(other.mean()),
        "other, highest twentieth": float(np.quantile(other, 0.95)),
        "area under ROC": float((np.searchsorted(other, same) / len(other)).mean()),
    }


def characters() -> list[list[Image.Image]]:
    shown = []
    for name, character in CHARACTERS.items():
        rngs = [random.Random(f"measure-faces/{name}/{i}") for i in range(12)]
        shown.append([render(character.appear(rng, style="photo"), draw_view(rng)) for rng in rngs])
    return shown


def generated(pack: FacePack, checkpoint: Path, count: int) -> dict[str, object]:
    """Pictures of the miniature checkpoint's, and how alike they are to renders of whom their captions describe."""
    _, portraits, captions = fresh_people(count)
    pictures = generate(checkpoint, captions)
    mine, meant = ([face[:1] for face in map(pack.faces, shown)] for shown in (pictures, portraits))
    cosines = [
        float(face.normed_embedding @ other.normed_embedding)
        for one, two in zip(mine, meant, strict=True)
        for face, other in zip(one, two, strict=False)
    ]
    return {**shares(pack, pictures), "cosine with the render": float(np.mean(cosines))}


def measure_faces(weights: Path, draws: int) -> dict[str, object]:
    """All figures of the pack in `weights` ({sdxl, faces}); `draws`: pictures of the checkpoint's."""
    pack = FacePack(weights / "faces")
    people = [[render(*appearance(f"measure-faces/{who}", i)) for i in range(EACH)] for who in range(PEOPLE)]
    return {
        "found": found_in_styles(pack),
        "placing_px": placing_px(pack),
        "people": similarity(pack, people),
        "characters": similarity(pack, characters()),
        "generated": generated(pack, weights / "sdxl", draws),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--draws", type=int, default=48)
    args = parser.parse_args()
    rounded = json.loads(json.dumps(measure_faces(args.weights, args.draws)), parse_float=lambda v: round(float(v), 3))
    print(json.dumps(rounded, indent=1))


if __name__ == "__main__":
    main()
