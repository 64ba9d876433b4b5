"""Draw a `Person` in a `View`: procedural, deterministic, supersampled, about two milliseconds a portrait.

Coordinates are fractions of the picture's side (0, 0 top left; 1, 1 bottom right) until `Pen` turns them into pixels.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from sdxl_core.miniature.styles import STYLE_FILTERS
from sdxl_core.miniature.world import COLOUR, HAIR_COLOUR, SCENE, SKIN, Person, Rgb, View, draw_person, draw_view

SIDE_PX = 64
SUPERSAMPLING = 4


@dataclass
class Pen:
    """ImageDraw in fractions of the side, with the view's light and colour jitter applied to every colour."""

    draw: ImageDraw.ImageDraw
    side: int
    light: float
    rng: random.Random

    def colour(self, rgb: Rgb, jitter: float = 8, shade: float = 1.0) -> Rgb:
        r, g, b = (max(0, min(255, round(v * shade * self.light + self.rng.uniform(-jitter, jitter)))) for v in rgb)
        return r, g, b

    def px(self, *fractions: float) -> list[float]:
        return [f * self.side for f in fractions]

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb, radius: float = 0.0) -> None:
        self.draw.rounded_rectangle(self.px(x0, y0, x1, y1), radius=radius * self.side, fill=fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Rgb | None = None, line: Rgb | None = None) -> None:
        width = max(1, round(0.013 * self.side)) if line else 1
        self.draw.ellipse(self.px(x - rx, y - ry, x + rx, y + ry), fill=fill, outline=line, width=width)

    def arc(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Rgb) -> None:
        self.draw.pieslice(self.px(x - rx, y - ry, x + rx, y + ry), start, end, fill=fill)

    def chord(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Rgb) -> None:
        self.draw.chord(self.px(x - rx, y - ry, x + rx, y + ry), start, end, fill=fill)

    def shape(self, points: list[tuple[float, float]], fill: Rgb) -> None:
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=fill)

    def line(self, points: list[tuple[float, float]], fill: Rgb, width: float = 0.013) -> None:
        self.draw.line(
            [(x * self.side, y * self.side) for x, y in points],
            fill=fill,
            width=max(1, round(width * self.side)),
            joint="curve",
        )


def render(person: Person, view: View, side_px: int = SIDE_PX) -> Image.Image:
    """`person` as `view` sees them: an RGB picture of `side_px` x `side_px`."""
    side = side_px * SUPERSAMPLING
    picture = Image.new("RGB", (side, side))
    pen = Pen(ImageDraw.Draw(picture), side, view.light, random.Random(view.jitter_seed))
    _background(pen, person.scene)
    _figure(pen, person, 0.5 + view.dx, 0.48 + view.dy, view.scale, view.tilt)
    return STYLE_FILTERS[person.style](picture.resize((side_px, side_px), Image.Resampling.LANCZOS))


def render_empty(rng: random.Random, style: str = "photo", side_px: int = SIDE_PX) -> Image.Image:
    """A scene without a face in it; in half of them somebody's shoulders."""
    side = side_px * SUPERSAMPLING
    picture = Image.new("RGB", (side, side))
    view = draw_view(rng)
    pen = Pen(ImageDraw.Draw(picture), side, view.light, random.Random(view.jitter_seed))
    person = draw_person(rng, style)
    _background(pen, person.scene)
    if rng.random() < 0.5:
        _shoulders(pen, person, 0.5 + view.dx, 0.48 + view.dy, view.scale)
    return STYLE_FILTERS[style](picture.resize((side_px, side_px), Image.Resampling.LANCZOS))


def _background(pen: Pen, scene: str) -> None:
    upper, lower = (pen.colour(c, 10) for c in SCENE[scene])
    horizon = pen.rng.uniform(0.5, 0.62)
    pen.box(0, 0, 1, 1, upper)
    pen.box(0, horizon, 1, 1, lower)
    SCENERY.get(scene, _nothing)(pen, horizon)


def _nothing(pen: Pen, horizon: float) -> None:
    """Two plain areas are the whole scene."""


def _sea(pen: Pen, horizon: float) -> None:
    pen.box(0, horizon - 0.09, 1, horizon, pen.colour((38, 118, 190)))


def _trees(pen: Pen, horizon: float) -> None:
    for k in range(5):
        x = (k + pen.rng.uniform(0.1, 0.9)) / 5
        pen.box(x - 0.015, horizon - 0.2, x + 0.015, horizon, (82, 56, 32))
        pen.oval(x, horizon - 0.25, 0.1, 0.15, pen.colour((36, 116, 48)))


def _cactus(pen: Pen, horizon: float) -> None:
    for x in (pen.rng.uniform(0.04, 0.18), pen.rng.uniform(0.82, 0.95)):
        green = pen.colour((70, 130, 70))
        pen.box(x - 0.025, horizon - 0.26, x + 0.025, horizon + 0.02, green, 0.02)
        pen.box(x - 0.075, horizon - 0.17, x + 0.0, horizon - 0.13, green, 0.02)
        pen.box(x - 0.075, horizon - 0.23, x - 0.04, horizon - 0.13, green, 0.015)


def _snowfall(pen: Pen, horizon: float) -> None:
    for _ in range(26):
        pen.oval(pen.rng.random(), pen.rng.random(), 0.012, 0.012, (255, 255, 255))


def _houses(pen: Pen, horizon: float) -> None:
    x = 0.0
    while x < 1:
        width, height = pen.rng.uniform(0.12, 0.22), pen.rng.uniform(0.18, 0.46)
        pen.box(x, horizon - height, x + width * 0.92, horizon, pen.colour((84, 90, 106)))
        for row in range(3):
            y = horizon - height + 0.04 + 0.1 * row
            pen.box(x + width * 0.25, y, x + width * 0.65, y + 0.04, (232, 214, 120))
        x += width


def _stars(pen: Pen, horizon: float) -> None:
    for _ in range(14):
        pen.oval(pen.rng.random(), pen.rng.uniform(0, horizon), 0.011, 0.011, (255, 255, 220))
    pen.oval(pen.rng.uniform(0.8, 0.9), 0.14, 0.075, 0.075, (250, 246, 214))


def _flowers(pen: Pen, horizon: float) -> None:
    for _ in range(22):
        fill = pen.rng.choice([(240, 90, 130), (250, 230, 90), (255, 255, 255)])
        pen.oval(pen.rng.random(), pen.rng.uniform(horizon + 0.03, 1), 0.018, 0.018, fill)


def _peaks(pen: Pen, horizon: float) -> None:
    for x in (pen.rng.uniform(0.0, 0.2), pen.rng.uniform(0.4, 0.6), pen.rng.uniform(0.8, 1.0)):
        top = pen.rng.uniform(0.34, 0.46)
        pen.shape([(x - 0.3, horizon), (x, horizon - top), (x + 0.3, horizon)], pen.colour((110, 116, 134)))
        snow = top * 0.3
        pen.shape(
            [(x - 0.09, horizon - top + snow), (x, horizon - top), (x + 0.09, horizon - top + snow)], (246, 248, 252)
        )


def _sun(pen: Pen, horizon: float) -> None:
    pen.box(0, 0, 1, horizon * 0.4, pen.colour((150, 70, 120)))
    pen.arc(pen.rng.choice([0.16, 0.84]), horizon, 0.14, 0.14, 180, 360, (255, 226, 110))


def _tiles(pen: Pen, horizon: float) -> None:
    grout = pen.colour((150, 190, 190), 4)
    for k in range(1, 8):
        pen.line([(k / 8, 0), (k / 8, horizon)], grout, 0.012)
    for k in range(1, 5):
        pen.line([(0, horizon * k / 5), (1, horizon * k / 5)], grout, 0.012)


def _books(pen: Pen, horizon: float) -> None:
    for shelf in range(3):
        bottom = horizon * (shelf + 1) / 3
        x = 0.01
        while x < 0.98:
            width = pen.rng.uniform(0.035, 0.06)
            fill = pen.colour(pen.rng.choice([(170, 50, 50), (60, 110, 70), (60, 80, 140), (200, 170, 90)]), 14)
            pen.box(x, bottom - pen.rng.uniform(0.11, 0.15), x + width * 0.85, bottom - 0.015, fill)
            x += width


SCENERY = {
    "on a beach": _sea,
    "in a forest": _trees,
    "in the desert": _cactus,
    "in the snow": _snowfall,
    "in a city": _houses,
    "at night": _stars,
    "in a meadow": _flowers,
    "in the mountains": _peaks,
    "at sunset": _sun,
    "in a kitchen": _tiles,
    "in a library": _books,
}


def _figure(pen: Pen, person: Person, x: float, y: float, s: float, tilt: float) -> None:
    """`x`, `y`: middle of the face; `s`: size; `tilt`: sideways shift of the head over the shoulders."""
    skin = pen.colour(SKIN[person.skin], 5)
    hair = pen.colour(HAIR_COLOUR[person.hair_colour], 5)
    _shoulders(pen, person, x, y, s)
    x += tilt
    pen.box(x - 0.06 * s, y + 0.12 * s, x + 0.06 * s, y + 0.28 * s, _darker(skin))
    _hair_behind(pen, person, hair, x, y, s)
    pen.oval(x, y, 0.17 * s, 0.205 * s, skin)
    if person.beard:
        beard = (70, 50, 38) if person.hair_style == "bald" else _darker(hair)
        pen.chord(x, y + 0.045 * s, 0.158 * s, 0.172 * s, 20, 160, beard)
    _hair_before(pen, person, hair, x, y, s)
    _face(pen, person, x, y, s)
    _hat(pen, person, x, y, s)
    TRAITS.get(person.trait, _no_trait)(pen, x, y, s)


def _shoulders(pen: Pen, person: Person, x: float, y: float, s: float) -> None:
    shirt = pen.colour(COLOUR[person.shirt_colour], 6)
    pen.box(x - 0.29 * s, y + 0.23 * s, x + 0.29 * s, 1.2, shirt, 0.13 * s)


def _darker(rgb: Rgb) -> Rgb:
    return round(rgb[0] * 0.84), round(rgb[1] * 0.84), round(rgb[2] * 0.84)


def _hair_behind(pen: Pen, person: Person, hair: Rgb, x: float, y: float, s: float) -> None:
    if person.hair_style == "long":
        pen.box(x - 0.225 * s, y - 0.2 * s, x + 0.225 * s, y + 0.33 * s, hair, 0.15 * s)
    if person.hair_style == "curly":
        for k in range(11):
            angle = math.pi * (0.92 + 1.16 * k / 10)
            pen.oval(x + 0.19 * s * math.cos(angle), y + 0.19 * s * math.sin(angle), 0.075 * s, 0.075 * s, hair)


def _hair_before(pen: Pen, person: Person, hair: Rgb, x: float, y: float, s: float) -> None:
    if person.hair_style != "bald":
        pen.arc(x, y - 0.045 * s, 0.183 * s, 0.195 * s, 180, 360, hair)
        pen.oval(x, y - 0.055 * s, 0.13 * s, 0.055 * s, pen.colour(SKIN[person.skin], 2))


def _face(pen: Pen, person: Person, x: float, y: float, s: float) -> None:
    ink: Rgb = (24, 22, 26)
    surprised = person.expression == "surprised"
    for side in (-1, 1):
        ex, ey = x + side * 0.072 * s, y - 0.005 * s
        pen.oval(ex, ey, 0.032 * s, (0.034 if surprised else 0.024) * s, (255, 255, 255))
        pen.oval(ex, ey, 0.015 * s, 0.017 * s, (26, 26, 36))
        lift = 0.02 * s if surprised else 0.0
        pen.line([(ex - 0.03 * s, ey - 0.05 * s - lift), (ex + 0.03 * s, ey - 0.05 * s - lift)], ink)
        if person.glasses:
            pen.oval(ex, ey, 0.06 * s, 0.055 * s, line=ink)
    if person.glasses:
        pen.line([(x - 0.015 * s, y - 0.01 * s), (x + 0.015 * s, y - 0.01 * s)], ink)
    if person.expression == "smiling":
        pen.chord(x, y + 0.085 * s, 0.075 * s, 0.055 * s, 5, 175, (176, 36, 48))
    elif surprised:
        pen.oval(x, y + 0.115 * s, 0.035 * s, 0.042 * s, (110, 24, 32))
    else:
        pen.line([(x - 0.055 * s, y + 0.115 * s), (x + 0.055 * s, y + 0.115 * s)], (120, 40, 44), 0.018)


def _hat(pen: Pen, person: Person, x: float, y: float, s: float) -> None:
    if person.hat == "none":
        return
    fill = pen.colour(COLOUR[person.hat_colour], 6)
    band = _darker(fill)
    if person.hat == "cap":
        pen.arc(x, y - 0.115 * s, 0.2 * s, 0.185 * s, 180, 360, fill)
        pen.box(x - 0.06 * s, y - 0.135 * s, x + 0.31 * s, y - 0.09 * s, band, 0.02 * s)
    elif person.hat == "tall hat":
        pen.box(x - 0.145 * s, y - 0.45 * s, x + 0.145 * s, y - 0.1 * s, fill, 0.015 * s)
        pen.box(x - 0.25 * s, y - 0.145 * s, x + 0.25 * s, y - 0.1 * s, band, 0.015 * s)
    else:
        pen.arc(x, y - 0.1 * s, 0.205 * s, 0.24 * s, 180, 360, fill)
        pen.box(x - 0.21 * s, y - 0.145 * s, x + 0.21 * s, y - 0.08 * s, band, 0.02 * s)
        pen.oval(x, y - 0.355 * s, 0.05 * s, 0.05 * s, band)


def _no_trait(pen: Pen, x: float, y: float, s: float) -> None:
    """Everybody without a name."""


def _star(pen: Pen, x: float, y: float, s: float) -> None:
    cx, cy, points = x + 0.095 * s, y + 0.085 * s, []
    for k in range(10):
        radius, angle = (0.07 if k % 2 == 0 else 0.03) * s, -math.pi / 2 + k * math.pi / 5
        points.append((cx + radius * math.cos(angle), cy + radius * math.sin(angle)))
    pen.shape(points, (255, 214, 40))


def _eyepatch(pen: Pen, x: float, y: float, s: float) -> None:
    pen.line([(x - 0.17 * s, y - 0.075 * s), (x + 0.17 * s, y + 0.0 * s)], (16, 16, 18), 0.022)
    pen.oval(x + 0.072 * s, y, 0.065 * s, 0.06 * s, (16, 16, 18))


def _antlers(pen: Pen, x: float, y: float, s: float) -> None:
    horn: Rgb = (150, 112, 70)
    for side in (-1, 1):
        root, tip = (x + side * 0.09 * s, y - 0.2 * s), (x + side * 0.24 * s, y - 0.42 * s)
        fork = (x + side * 0.15 * s, y - 0.29 * s)
        pen.line([root, fork, tip], horn, 0.03)
        pen.line([fork, (x + side * 0.09 * s, y - 0.42 * s)], horn, 0.026)


TRAITS = {"star": _star, "eyepatch": _eyepatch, "antlers": _antlers}
