"""Pictures, captions and micro-conditioning of the world as tensors to train on."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdxl_core.miniature.networks import PROBE_HEADS
from sdxl_core.miniature.render import SIDE_PX, render
from sdxl_core.miniature.world import Person, caption, draw_person, draw_view


@dataclass(frozen=True)
class Corpus:
    x_NCHW: Tensor
    """uint8 pictures."""
    time_ids_N6: Tensor
    """float32: original height and width, crop top and left, target height and width, in pixels."""
    people: list[Person]

    def __len__(self) -> int:
        return len(self.people)

    def pictures(self, rows: Tensor) -> Tensor:
        """uint8 -> float32 in [-1, 1]."""
        return self.x_NCHW[rows].float() / 127.5 - 1

    def captions(self, rows: Tensor, seed: int) -> list[str]:
        """A fresh wording of each picture, decided by `seed`."""
        return [caption(self.people[i], random.Random(f"{seed}/{i}")) for i in rows.tolist()]

    def labels(self) -> dict[str, Tensor]:
        """For every attribute of the probe, the index of each person's value."""
        return {
            name: torch.tensor([values.index(str(getattr(p, name))) for p in self.people])
            for name, values in PROBE_HEADS.items()
        }


def make_corpus(size: int, seed: int, framed: bool = True) -> Corpus:
    """Draw `size` people. With `framed`, one in five is a crop of a larger picture and one in five was resized, and
    its micro-conditioning says so, as in SDXL (Podell et al. 2023, arXiv:2307.01952, section 2.2)."""
    pictures, ids, people = [], [], []
    for i in range(size):
        rng = random.Random(f"corpus/{seed}/{i}")
        person = draw_person(rng)
        picture, time_ids = _framed(person, rng) if framed else _plain(person, rng)
        pictures.append(np.asarray(picture))
        ids.append(time_ids)
        people.append(person)
    x_NCHW = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Corpus(x_NCHW, torch.tensor(ids, dtype=torch.float32), people)


def _plain(person: Person, rng: random.Random) -> tuple[Image.Image, list[float]]:
    return render(person, draw_view(rng)), [SIDE_PX, SIDE_PX, 0, 0, SIDE_PX, SIDE_PX]


def _framed(person: Person, rng: random.Random) -> tuple[Image.Image, list[float]]:
    kind = rng.random()
    if kind < 0.2:
        original = rng.randint(SIDE_PX + 2, SIDE_PX + 16)
        top, left = rng.randint(0, original - SIDE_PX), rng.randint(0, original - SIDE_PX)
        whole = render(person, draw_view(rng), original)
        crop = whole.crop((left, top, left + SIDE_PX, top + SIDE_PX))
        return crop, [original, original, top, left, SIDE_PX, SIDE_PX]
    picture, ids = _plain(person, rng)
    if kind < 0.4:
        ids[0] = ids[1] = round(math.exp(rng.uniform(math.log(48), math.log(2048))))
    return picture, ids
