"""The miniature world: what can appear in a portrait, and how it is named.

A portrait is fully described by a `Person` (what a caption may say) and a `View` (what it never says: light, pose,
framing). Both are drawn from a seed, so the world is a pure function and any picture can be made again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

Rgb = tuple[int, int, int]

SKIN: dict[str, Rgb] = {"pale": (250, 222, 200), "tan": (222, 170, 125), "brown": (150, 98, 62), "dark": (88, 56, 38)}
HAIR_COLOUR: dict[str, Rgb] = {
    "black": (25, 22, 24),
    "brown": (104, 62, 30),
    "blond": (232, 200, 92),
    "red": (196, 72, 30),
    "gray": (164, 164, 168),
    "blue": (50, 84, 214),
}
COLOUR: dict[str, Rgb] = {
    "red": (208, 40, 45),
    "green": (45, 152, 70),
    "blue": (45, 85, 204),
    "yellow": (242, 208, 50),
    "purple": (132, 58, 172),
    "white": (242, 242, 240),
    "black": (34, 34, 40),
    "orange": (242, 132, 36),
}
HAIR_STYLE = ("short", "long", "curly", "bald")
HAT = ("none", "cap", "tall hat", "beanie")
EXPRESSION = ("smiling", "serious", "surprised")
SCENE: dict[str, tuple[Rgb, Rgb]] = {  # colours of the upper and the lower part of the background
    "on a beach": ((135, 206, 250), (238, 214, 160)),
    "in a forest": ((172, 216, 190), (45, 105, 55)),
    "in the desert": ((250, 204, 146), (224, 162, 82)),
    "in the snow": ((200, 215, 235), (245, 248, 252)),
    "in a city": ((150, 160, 180), (95, 95, 100)),
    "in a studio": ((196, 196, 198), (170, 170, 172)),
    "at night": ((18, 22, 58), (28, 38, 44)),
    "in a meadow": ((120, 186, 242), (120, 190, 80)),
    "in the mountains": ((176, 206, 236), (120, 124, 112)),
    "at sunset": ((250, 120, 70), (92, 44, 88)),
    "in a kitchen": ((214, 236, 234), (168, 112, 70)),
    "in a library": ((120, 74, 40), (84, 48, 30)),
}
STYLE: dict[str, str] = {  # name -> how a caption begins; the styles after `photo` and `pencil` are never in training
    "photo": "a photo of",
    "pencil": "a pencil drawing of",
    "blueprint": "a blueprint of",
    "poster": "a poster of",
}
TRAINED_STYLES = ("photo", "pencil")
TRAIT = ("none", "star", "eyepatch", "antlers")  # only named characters have a trait


@dataclass(frozen=True)
class Person:
    """Everything about a portrait that a caption may name."""

    skin: str
    hair_style: str
    hair_colour: str
    hat: str
    hat_colour: str
    shirt_colour: str
    glasses: bool
    beard: bool
    expression: str
    scene: str
    style: str = "photo"
    trait: str = "none"


@dataclass(frozen=True)
class View:
    """Everything about a portrait that no caption names. Offsets and sizes are fractions of the picture's side."""

    dx: float
    dy: float
    scale: float
    tilt: float
    light: float
    jitter_seed: int


@dataclass(frozen=True)
class Character:
    """A named somebody: fixed attributes and one trait that the training distribution never shows."""

    name: str
    fixed: dict[str, Any] = field(default_factory=dict)

    def appear(self, rng: random.Random, **changes: Any) -> Person:
        """The character in random surroundings; `changes` override anything, the fixed attributes too."""
        return replace(draw_person(rng), **{**self.fixed, **changes})


CHARACTERS: dict[str, Character] = {
    "kestrel": Character(
        "kestrel",
        {
            "skin": "brown",
            "hair_style": "curly",
            "hair_colour": "blue",
            "hat": "none",
            "glasses": True,
            "beard": False,
            "trait": "star",
        },
    ),
    "corvo": Character(
        "corvo",
        {
            "skin": "pale",
            "hair_style": "long",
            "hair_colour": "red",
            "hat": "none",
            "glasses": False,
            "beard": True,
            "trait": "eyepatch",
        },
    ),
    "elowen": Character(
        "elowen",
        {
            "skin": "tan",
            "hair_style": "long",
            "hair_colour": "gray",
            "hat": "none",
            "glasses": False,
            "beard": False,
            "trait": "antlers",
        },
    ),
}


def draw_person(rng: random.Random, style: str | None = None) -> Person:
    """One person of the training distribution; nine in ten are photographs unless `style` says otherwise."""
    return Person(
        skin=rng.choice(list(SKIN)),
        hair_style=rng.choice(HAIR_STYLE),
        hair_colour=rng.choice(list(HAIR_COLOUR)),
        hat=rng.choice(HAT),
        hat_colour=rng.choice(list(COLOUR)),
        shirt_colour=rng.choice(list(COLOUR)),
        glasses=rng.random() < 0.35,
        beard=rng.random() < 0.3,
        expression=rng.choice(EXPRESSION),
        scene=rng.choice(list(SCENE)),
        style=style or ("pencil" if rng.random() < 0.1 else "photo"),
    )


def draw_view(rng: random.Random) -> View:
    return View(
        dx=rng.uniform(-0.07, 0.07),
        dy=rng.uniform(-0.03, 0.06),
        scale=rng.uniform(0.9, 1.15),
        tilt=rng.uniform(-0.035, 0.035),
        light=rng.uniform(0.92, 1.06),
        jitter_seed=rng.getrandbits(32),
    )


Told = Callable[[float], bool]
"""Whether an attribute is told of this time, given the chance that it is."""


def caption(person: Person, rng: random.Random, complete: bool = False) -> str:
    """Name the attributes of `person`.

    Each attribute is left out now and then, as real captions do, unless `complete`. One caption in twelve gives the
    person a meaningless name, so that a new name is a word like any other to the model, and says nothing by itself.
    """

    def told(chance: float) -> bool:
        return complete or rng.random() < chance

    named = not complete and rng.random() < 1 / 12
    who = f"{STYLE[person.style]} {_name(rng) + ' ' if named else 'a '}person"
    if not complete and rng.random() < 0.04:
        return who
    parts = [who, _listed("with", _looks(person, told)), _listed("wearing", _clothes(person, told))]
    parts.append(person.expression if told(0.6) else "")
    parts.append(person.scene if told(0.95) else "")
    return " ".join(part for part in parts if part)


def _looks(person: Person, told: Told) -> list[str]:
    hair = "a bald head" if person.hair_style == "bald" else f"{person.hair_style} {person.hair_colour} hair"
    looks = [f"{person.skin} skin"] if told(0.6) else []
    looks += [hair] if told(0.9) else []
    looks += ["a beard"] if person.beard and told(0.85) else []
    looks += ["glasses"] if person.glasses and told(0.85) else []
    return looks


def _clothes(person: Person, told: Told) -> list[str]:
    hat = f"{with_article(person.hat_colour)} {person.hat}"
    clothes = [hat] if person.hat != "none" and told(0.95) else []
    clothes += [f"{with_article(person.shirt_colour)} shirt"] if told(0.9) else []
    return clothes


def with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _listed(before: str, words: list[str]) -> str:
    """`with a, b and c`; nothing for no words."""
    if len(words) < 2:
        return " ".join([before, *words]) if words else ""
    return f"{before} {', '.join(words[:-1])} and {words[-1]}"


def _name(rng: random.Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(rng.choice(letters) for _ in range(rng.randint(3, 7)))
