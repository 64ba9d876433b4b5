"""`dino`: who is it? A vision transformer whose class token tells the world's people apart.

Two pictures of one person, in different surroundings, are to be closer to each other than to pictures of anybody else:
InfoNCE (van den Oord et al. 2018, arXiv:1807.03748), as in SimCLR (Chen et al. 2020, arXiv:2002.05709). DINO itself
(Caron et al. 2021, arXiv:2104.14294) learns without being told who is who; here that is known.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import ViTConfig, ViTModel

from sdxl_core.miniature.fit import Schedule, fit
from sdxl_core.miniature.judges.flaws import Take, make_pictures
from sdxl_core.miniature.render import SIDE_PX
from sdxl_core.miniature.world import CHARACTERS, HAT, TRAIT, Person, draw_person, draw_view

IDENTITY = ("skin", "hair_style", "hair_colour", "glasses", "beard", "trait")
PAIRS = 5_000
BATCH = 48
SCHEDULE = Schedule(steps=600, learning_rate=1e-3, warmup_steps=50, decay_share=0.5, ema_decay=0.99)
WIDTH, LAYERS, HEADS, PATCH_PX = 64, 4, 4, 8
TEMPERATURE = 0.1
CODED_SHARE = 0.3
HATLESS_SHARE = 0.75
HELD_OUT_ONE_IN = 5

# B pairs of a batch, P pairs, D width of the embedding


def identity(person: Person) -> tuple[str, ...]:
    """What makes somebody the same person in other surroundings; nobody sees the colour of a bald person's hair."""
    seen = replace(person, hair_colour="black") if person.hair_style == "bald" else person
    return tuple(str(getattr(seen, name)) for name in IDENTITY)


NAMED = {identity(who.appear(random.Random(0))) for who in CHARACTERS.values()}


def held_out(person: Person) -> bool:
    """The named characters and one identity in five are for measuring only."""
    who = identity(person)
    return who in NAMED or hashlib.sha256("/".join(who).encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def draw_somebody(rng: random.Random, measured: bool) -> Person:
    while True:
        person = replace(draw_person(rng, style="photo"), trait=rng.choice(TRAIT))
        if rng.random() < HATLESS_SHARE:
            person = replace(person, hat=HAT[0])
        if held_out(person) == measured:
            return person


def in_surroundings(who: Person, where: Person) -> Person:
    """`who`, dressed, feeling and placed as `where`."""
    return replace(where, **{name: getattr(who, name) for name in IDENTITY})


def take_of(rng: random.Random, person: Person) -> Take:
    return Take(person, draw_view(rng), None, rng.random() < CODED_SHARE, rng.getrandbits(32))


def draw_chain(count: int, vae: AutoencoderKL) -> tuple[list[Person], Tensor]:
    """`count` people and x_P23HW, two pictures of each, in uint8.

    The second picture of each has the surroundings of the next one's first, so surroundings say nothing of who it is.
    """
    rng = random.Random("dino/train")
    people = [draw_somebody(rng, measured=False) for _ in range(count + 1)]
    takes = []
    for who, following in pairwise(people):
        takes += [take_of(rng, who), take_of(rng, in_surroundings(who, following))]
    return people[:count], make_pictures(takes, vae).view(count, 2, 3, SIDE_PX, SIDE_PX)


def build_dino() -> ViTModel:
    config = ViTConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIDE_PX,
        patch_size=PATCH_PX,
    )
    return ViTModel(config, add_pooling_layer=False)


def embed(dino: ViTModel, x_N3HW: Tensor) -> Tensor:
    """uint8 pictures -> class tokens at unit length, one a row."""
    tokens: Tensor = dino(pixel_values=x_N3HW.float() / 127.5 - 1).last_hidden_state
    return F.normalize(tokens[:, 0], dim=1)


def train(work: Path, vae: AutoencoderKL) -> tuple[ViTModel, dict[str, float]]:
    people, x_P23HW = draw_chain(PAIRS, vae)
    names = {who: number for number, who in enumerate(sorted({identity(person) for person in people}))}
    who_P = torch.tensor([names[identity(person)] for person in people])
    dino = build_dino()

    def loss(g: torch.Generator) -> Tensor:
        start = int(torch.randint(PAIRS - BATCH + 1, (), generator=g))
        rows = slice(start, start + BATCH)
        first_BD, second_BD = embed(dino, x_P23HW[rows].flatten(0, 1)).view(BATCH, 2, -1).unbind(1)
        return _both_ways(first_BD @ second_BD.T / TEMPERATURE, who_P[rows])

    return dino, fit("dino", dino, loss, SCHEDULE, work)


def _both_ways(logits_BB: Tensor, who_B: Tensor) -> Tensor:
    """Cross-entropy of finding one's own other picture, from either; a namesake elsewhere is no wrong answer."""
    namesake_BB = (who_B[:, None] == who_B) & ~torch.eye(len(who_B), dtype=torch.bool)
    logits_BB = logits_BB.masked_fill(namesake_BB, -torch.inf)
    own_B = torch.arange(len(who_B))
    return (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2
