"""`pick`: which of two pictures is the better one for a prompt, learned as PickScore was.

Kirstain et al. 2023 (arXiv:2305.01569), section 3: of two pictures, the chance that the first is preferred is the
softmax over exp(logit scale) x cosine(prompt, picture), and the loss is the cross-entropy to what was preferred. People
did the preferring there; here it is known what the prompt says and how well each picture is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from sdxl_core.miniature.fit import Schedule, fit
from sdxl_core.miniature.judges.flaws import Take, draw_flaw, make_pictures
from sdxl_core.miniature.networks import CLIP_WIDTH, PROBE_HEADS
from sdxl_core.miniature.render import render
from sdxl_core.miniature.world import STYLE, Person, View, caption, draw_person, draw_view

ROUNDS = {"pick": "train", "pick-again": "train-again"}
"""Stage -> split that its families are of."""
FAMILIES = 2_400
BATCH = 8
SCHEDULE = Schedule(steps=1_400, learning_rate=1e-3, warmup_steps=50, decay_share=0.5, ema_decay=0.99)
VISION_LAYERS, TEXT_LAYERS = 3, 2
"""CLIP's last layers are left out, and with them a quarter of the file."""
VARIANTS, STATES = 4, 3
ONE_VIEW_SHARE = 0.5
"""Families in training whose pictures share one view, so that nothing else differs than what is wrong."""
COMPLETE_SHARE = 0.5
CODED_SHARE = 0.3
LEVELS = 9
VISIBLE_PIXELS, VISIBLE_STEP = 8, 32
VALUES: dict[str, tuple[object, ...]] = {**PROBE_HEADS, "glasses": (False, True), "beard": (False, True)}

# F families, V people of one, K states of drawing (as it should be, a little spoilt, much spoilt), N pictures, D width


@dataclass(frozen=True)
class Family:
    """Somebody and others who differ from them in one thing each; all have a prompt, and a picture in each state."""

    people: tuple[Person, ...]
    prompts: tuple[str, ...]
    takes: tuple[Take, ...]
    """The first person's in all states, then the second's, and so on."""
    wrong: tuple[str, ...]
    """What each of the others has otherwise than the first, whose prompt says it."""

    def contradictions(self) -> Tensor:
        """VV, bool: whether the first prompt (row) says what the other person (column) has otherwise."""
        return torch.tensor([[self._contradicts(i, other) for other in self.people] for i in range(len(self.people))])

    def _contradicts(self, i: int, other: Person) -> bool:
        names = told(self.people[i], self.prompts[i])
        return any(getattr(self.people[i], name) != getattr(other, name) for name in names)


def told(person: Person, words: str) -> list[str]:
    """The attributes that a caption of `person` names."""
    hair = "bald head" if person.hair_style == "bald" else f"{person.hair_style} {person.hair_colour} hair"
    hat = f"{person.hat_colour} {person.hat}"
    phrases = {
        "skin": f"{person.skin} skin",
        "hair_style": hair,
        "hair_colour": hair,
        "hat": hat,
        "hat_colour": hat,
        "shirt_colour": f"{person.shirt_colour} shirt",
        "glasses": "glasses",
        "beard": "a beard",
        "expression": person.expression,
        "scene": person.scene,
        "style": STYLE[person.style],
    }
    return [name for name, phrase in phrases.items() if phrase in words]


def draw_wrong(rng: random.Random, person: Person, view: View, words: str) -> tuple[Person, str]:
    """Somebody who differs, visibly, in one attribute that `words` name; and that attribute."""
    names = told(person, words)
    while True:
        name = rng.choice(names)
        changed: dict[str, Any] = {name: rng.choice([v for v in VALUES[name] if v != getattr(person, name)])}
        other = replace(person, **changed)
        if _visible(person, other, view):
            return other, name


def _visible(one: Person, other: Person, view: View) -> bool:
    a, b = (np.asarray(render(person, view), dtype=np.int16) for person in (one, other))
    return int((np.abs(a - b).max(axis=2) > VISIBLE_STEP).sum()) >= VISIBLE_PIXELS


def draw_family(seed: str, one_view_share: float) -> Family:
    rng = random.Random(seed)
    person, view = draw_person(rng), draw_view(rng)
    words = caption(person, rng, complete=rng.random() < COMPLETE_SHARE)
    others = [draw_wrong(rng, person, view, words) for _ in range(VARIANTS - 1)]
    people = (person, *(other for other, _ in others))
    prompts = (words, *(caption(other, rng, complete=rng.random() < COMPLETE_SHARE) for other, _ in others))
    coded, one_view = rng.random() < CODED_SHARE, rng.random() < one_view_share
    takes = []
    for one in people:
        light, heavy = sorted(rng.sample(range(1, LEVELS + 1), 2))
        for flaw in (None, draw_flaw(rng, light / LEVELS), draw_flaw(rng, heavy / LEVELS)):
            takes.append(Take(one, view if one_view else draw_view(rng), flaw, coded, rng.getrandbits(32)))
    return Family(people, prompts, tuple(takes), tuple(name for _, name in others))


def draw_families(split: str, count: int, one_view_share: float = 0.0) -> list[Family]:
    return [draw_family(f"pick/{split}/{i}", one_view_share) for i in range(count)]


def shortened(clip: CLIPModel) -> CLIPModel:
    """`clip` without its towers' last layers."""
    vision, text = clip.vision_model.encoder, clip.text_model.encoder
    del vision.layers[VISION_LAYERS:], text.layers[TEXT_LAYERS:]
    clip.config.vision_config.num_hidden_layers = VISION_LAYERS
    clip.config.text_config.num_hidden_layers = TEXT_LAYERS
    return clip


@dataclass(frozen=True)
class Towers:
    """What a network makes of prompts, and of uint8 pictures N3HW: embeddings at unit length, one a row."""

    prompts: Callable[[list[str]], Tensor]
    pictures: Callable[[Tensor], Tensor]


def clip_towers(clip: CLIPModel, tokenizer: CLIPTokenizer) -> Towers:
    def prompts(words: list[str]) -> Tensor:
        ids = tokenizer(words, padding="longest", truncation=True, return_tensors="pt")
        return F.normalize(clip.get_text_features(**ids).pooler_output, dim=1)

    def pictures(x_N3HW: Tensor) -> Tensor:
        return F.normalize(clip.get_image_features(pixel_values=x_N3HW.float() / 127.5 - 1).pooler_output, dim=1)

    return Towers(prompts, pictures)


def preference_loss(better: Tensor, worse: Tensor) -> Tensor:
    """Cross-entropy of softmax((better, worse)) to (1, 0), pair by pair."""
    return F.softplus(worse - better)


def family_loss(logits_FVVK: Tensor, contradictions_FVV: Tensor) -> Tensor:
    """Logits of every prompt (second place) with every picture of its family (third and fourth) -> mean loss of pairs.

    A person's own picture should win against spoilt ones of the same person, a little spoilt against much spoilt; and
    against well-drawn ones of others whom the prompt does not fit. Both sorts of pairs weigh the same.
    """
    own_FVK = logits_FVVK.diagonal(dim1=1, dim2=2).transpose(1, 2)
    good, light, heavy = own_FVK.unbind(-1)
    drawn_worse = sum(preference_loss(a, b).mean() for a, b in ((good, light), (good, heavy), (light, heavy))) / 3
    shown_wrong = preference_loss(good[..., None], logits_FVVK[..., 0])[contradictions_FVV]
    return drawn_worse + shown_wrong.mean()


class Lessons(nn.Module):
    """Families with their pictures drawn, to learn from; and a head per attribute, which is learned beside the towers.

    Pairs alone teach small things in the face slowly. So whatever a person has is also read off the embeddings of
    their picture and, as far as it is told, of their prompt, both by the same linear heads.
    """

    def __init__(self, split: str, count: int, vae: AutoencoderKL) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(CLIP_WIDTH, len(values)) for name, values in VALUES.items()})
        self._families = draw_families(split, count, ONE_VIEW_SHARE)
        x_N3HW = make_pictures([take for family in self._families for take in family.takes], vae)
        self._x_FN3HW = x_N3HW.view(count, VARIANTS * STATES, *x_N3HW.shape[1:])
        self._contradictions_FVV = torch.stack([family.contradictions() for family in self._families])

    @property
    def prompts(self) -> list[str]:
        return [prompt for family in self._families for prompt in family.prompts]

    def loss(self, towers: Towers, scale: Tensor, g: torch.Generator) -> Tensor:
        """Of a few families that `g` draws; logits are `scale` times the cosine."""
        rows = torch.randint(len(self._families), (BATCH,), generator=g)
        prompts = [prompt for i in rows.tolist() for prompt in self._families[i].prompts]
        text_FPD = towers.prompts(prompts).view(BATCH, VARIANTS, -1)
        pictures = towers.pictures(self._x_FN3HW[rows].flatten(0, 1)).view(BATCH, VARIANTS, STATES, -1)
        logits = scale * torch.einsum("fpd,fvkd->fpvk", text_FPD, pictures)
        families = [self._families[i] for i in rows.tolist()]
        return family_loss(logits, self._contradictions_FVV[rows]) + self._misread(
            families, scale * text_FPD.flatten(0, 1), scale * pictures[:, :, 0].flatten(0, 1)
        )

    def _misread(self, families: list[Family], text_ND: Tensor, pictures_ND: Tensor) -> Tensor:
        """Mean cross-entropy of the heads: on well-drawn pictures, and on prompts that name the attribute."""
        people = [person for family in families for person in family.people]
        names_N = [
            told(*pair) for pair in zip(people, [words for family in families for words in family.prompts], strict=True)
        ]
        total = torch.zeros(())
        for name, head in self.heads.items():
            value_N = torch.tensor([VALUES[name].index(getattr(person, name)) for person in people])
            total = total + F.cross_entropy(head(pictures_ND), value_N)
            told_N = torch.tensor([name in names for names in names_N])
            if told_N.any():
                total = total + F.cross_entropy(head(text_ND[told_N]), value_N[told_N])
        return total / len(self.heads)


def train(work: Path, clip_folder: Path, vae: AutoencoderKL) -> tuple[CLIPModel, dict[str, float]]:
    """In rounds, each with families that it has not seen before, at a rate that rises again."""
    clip = shortened(CLIPModel.from_pretrained(clip_folder, dtype=torch.float32))
    towers = clip_towers(clip, CLIPTokenizer.from_pretrained(clip_folder))
    figures: dict[str, float] = {}
    for stage, split in ROUNDS.items():
        lessons = Lessons(split, FAMILIES, vae)
        learned = nn.ModuleList([clip, lessons])
        found = fit(stage, learned, partial(_loss, lessons, towers, clip), SCHEDULE, work)
        figures = {"steps": 0, "seconds": 0} | figures
        figures |= {name: figures[name] + found[name] for name in ("steps", "seconds")} | {"loss": found["loss"]}
    return clip, figures


def _loss(lessons: Lessons, towers: Towers, clip: CLIPModel, g: torch.Generator) -> Tensor:
    return lessons.loss(towers, clip.logit_scale.exp(), g)
