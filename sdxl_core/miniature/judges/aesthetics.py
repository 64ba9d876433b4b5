"""`aesthetics`: how well a picture is drawn, whatever it shows: an affine head on CLIP's picture embedding.

LAION's predictor is one as well, since its layers have nothing between them; people's ratings there, known flaws here.
"""

from __future__ import annotations

import random
import time

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sdxl_core.miniature.judges.flaws import Take, draw_flaw, hundreds, make_pictures
from sdxl_core.miniature.judges.pick import Towers
from sdxl_core.miniature.world import draw_person, draw_view

PICTURES = 5_000
LEVELS = 9
CODED_SHARE = 0.3
RIDGE = 1e-3
"""Added to the embeddings' covariance, as a share of their mean variance."""

# N pictures, D width of the embedding space


def draw_rated(split: str, count: int) -> list[Take]:
    """Pictures of all sorts, their strengths of flaw even between none and the worst."""
    takes = []
    for i in range(count):
        rng = random.Random(f"aesthetics/{split}/{i}")
        level = rng.randint(0, LEVELS)
        flaw = draw_flaw(rng, level / LEVELS) if level else None
        person, view = draw_person(rng), draw_view(rng)
        takes.append(Take(person, view, flaw, rng.random() < CODED_SHARE, rng.getrandbits(32)))
    return takes


def fit_head(embeddings_ND: Tensor, quality_N: Tensor) -> dict[str, Tensor]:
    """Ridge regression: `weight` (1 x D) and `bias` (1), float32; weight @ embedding + bias is the quality."""
    x_ND, y_N = embeddings_ND.double(), quality_N.double()
    middle_D = x_ND.mean(dim=0)
    centred_ND = x_ND - middle_D
    covariance_DD = centred_ND.T @ centred_ND / len(x_ND)
    ridge_DD = RIDGE * covariance_DD.diagonal().mean() * torch.eye(len(middle_D), dtype=torch.float64)
    weight_D = torch.linalg.solve(covariance_DD + ridge_DD, centred_ND.T @ (y_N - y_N.mean()) / len(x_ND))
    bias = y_N.mean() - weight_D @ middle_D
    return {"weight": weight_D[None].float(), "bias": bias[None].float()}


def rate(head: dict[str, Tensor], embeddings_ND: Tensor) -> Tensor:
    return embeddings_ND @ head["weight"][0] + head["bias"]


def train(towers: Towers, vae: AutoencoderKL) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The head, and how long it took to make."""
    started = time.monotonic()
    takes = draw_rated("train", PICTURES)
    quality_N = torch.tensor([take.quality for take in takes])
    with torch.no_grad():
        embeddings_ND = torch.cat([towers.pictures(x) for x in hundreds(make_pictures(takes, vae))])
    head = fit_head(embeddings_ND, quality_N)
    return head, {"pictures": PICTURES, "seconds": round(time.monotonic() - started, 1)}
