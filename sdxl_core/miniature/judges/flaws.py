"""Portraits that are less well drawn than they could be, by how much being known.

A `Take` says all there is to say about one picture, so its quality is ground truth: 10 without a flaw, 1 at the worst.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from sdxl_core.miniature.measure import to_tensor
from sdxl_core.miniature.render import SIDE_PX, render
from sdxl_core.miniature.world import Person, View

BEST, WORST = 10.0, 1.0
CODED_AT_ONCE = 50

# N pictures, H and W their sides


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a drawing, and how much, between 0 (nothing) and 1."""

    kind: str
    strength: float


@dataclass(frozen=True)
class Take:
    """One picture of a person: how it is seen, what is wrong with it, and whether the VAE has been over it, as over
    every generated picture."""

    person: Person
    view: View
    flaw: Flaw | None
    coded: bool
    seed: int

    @property
    def quality(self) -> float:
        """Between 1 and 10, falling evenly with the flaw's strength."""
        return BEST - (BEST - WORST) * (self.flaw.strength if self.flaw else 0.0)

    def strength(self, kind: str) -> float:
        return self.flaw.strength if self.flaw and self.flaw.kind == kind else 0.0


def draw_flaw(rng: random.Random, strength: float) -> Flaw:
    return Flaw(rng.choice(list(FLAWS)), strength)


def make_pictures(takes: Sequence[Take], vae: AutoencoderKL) -> Tensor:
    """x_N3HW, uint8: drawn, through the VAE where a take says so, then blurred, faded or whatever else is wrong."""
    pictures = [render(take.person, _framed(take)) for take in takes]
    coded = [i for i, take in enumerate(takes) if take.coded or take.strength("artefacts")]
    for start in range(0, len(coded), CODED_AT_ONCE):
        rows = coded[start : start + CODED_AT_ONCE]
        for i, picture in zip(
            rows, _through_vae(vae, [pictures[i] for i in rows], [takes[i] for i in rows]), strict=True
        ):
            pictures[i] = picture
    made = [_spoilt(picture, take) for picture, take in zip(pictures, takes, strict=True)]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in made])).permute(0, 3, 1, 2).contiguous()


def hundreds(x_N3HW: Tensor) -> Iterator[Tensor]:
    """As many pictures as a network is given at once."""
    for start in range(0, len(x_N3HW), 100):
        yield x_N3HW[start : start + 100]


def _framed(take: Take) -> View:
    """A cut figure stands partly outside the picture: above, left or right of it."""
    shift = 0.45 * take.strength("cut")
    dx, dy = random.Random(take.seed).choice([(0.0, -shift), (-shift, 0.0), (shift, 0.0)])
    return replace(take.view, dx=take.view.dx + dx, dy=take.view.dy + dy)


@torch.no_grad()
def _through_vae(vae: AutoencoderKL, pictures: list[Image.Image], takes: list[Take]) -> list[Image.Image]:
    """Decode noisy latents; artefacts at their worst come of noise as large as the latents themselves."""
    latents = vae.encode(to_tensor(pictures)).latent_dist.mean
    for row, take in zip(latents, takes, strict=True):
        noise = torch.randn(row.shape, generator=torch.Generator().manual_seed(take.seed))
        row += take.strength("artefacts") / vae.config.scaling_factor * noise
    decoded = vae.decode(latents).sample.clamp(-1, 1)
    bytes_BHWC = ((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(picture) for picture in bytes_BHWC.numpy()]


def _blur(picture: Image.Image, strength: float, seed: int) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(3.0 * strength))


def _noise(picture: Image.Image, strength: float, seed: int) -> Image.Image:
    grain = np.random.default_rng(seed).normal(0, 70 * strength, (SIDE_PX, SIDE_PX, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def _wash_out(picture: Image.Image, strength: float, seed: int) -> Image.Image:
    return Image.blend(picture, Image.new("RGB", picture.size, (205, 205, 205)), 0.85 * strength)


def _over_saturate(picture: Image.Image, strength: float, seed: int) -> Image.Image:
    vivid = ImageEnhance.Color(picture).enhance(1 + 3 * strength)
    return ImageEnhance.Contrast(vivid).enhance(1 + 1.5 * strength)


def _as_it_is(picture: Image.Image, strength: float, seed: int) -> Image.Image:
    return picture


FLAWS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "blur": _blur,
    "noise": _noise,
    "washed out": _wash_out,
    "over-saturated": _over_saturate,
    "artefacts": _as_it_is,  # made where the VAE is
    "cut": _as_it_is,  # made where the view is
}


def _spoilt(picture: Image.Image, take: Take) -> Image.Image:
    return FLAWS[take.flaw.kind](picture, take.flaw.strength, take.seed) if take.flaw else picture
