"""How good the judges are, measured on people whom no training saw, beside the CLIP model that `pick` and `hps` began
as: `python -m sdxl_core.miniature.judges.measure WEIGHTS`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from sdxl_core.miniature.judges import aesthetics, dino, hps, pick
from sdxl_core.miniature.judges.flaws import FLAWS, Take, hundreds, make_pictures
from sdxl_core.miniature.world import Person
from sdxl_core.model import load_vae

FAMILIES, RATED, MEETINGS = 300, 1_000, 500
MEETING = 5


@dataclass(frozen=True)
class Choice:
    """Two pictures for one prompt, and what makes the second the worse one: a flaw, or an attribute."""

    prompt: str
    better: Take
    worse: Take
    reason: str


def choices_of(family: pick.Family) -> list[Choice]:
    """A good picture against a little spoilt, much spoilt and three wrong ones, each seen otherwise."""
    good, light, heavy = family.takes[: pick.STATES]
    spoilt = [(take, take.flaw.kind) for take in (light, heavy) if take.flaw]
    wrong = zip(family.takes[pick.STATES :: pick.STATES], family.wrong, strict=True)
    return [Choice(family.prompts[0], good, worse, reason) for worse, reason in (*spoilt, *wrong)]


def load_clip(folder: Path) -> pick.Towers:
    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    return pick.clip_towers(clip, CLIPTokenizer.from_pretrained(folder))


def load_dino(folder: Path) -> ViTModel:
    return ViTModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32).eval()


@torch.no_grad()
def better_preferred(judges: Mapping[str, pick.Towers], choices: list[Choice], vae: AutoencoderKL) -> dict[str, object]:
    """For each judge, the share of choices in which its cosine is higher for the better picture, by what is worse.

    `agree`: the share in which all judges say the same.
    """
    x_N3HW = make_pictures([take for choice in choices for take in (choice.better, choice.worse)], vae)
    shares: dict[str, object] = {}
    said = []
    for name, towers in judges.items():
        hits = _hits(towers, choices, x_N3HW)
        right: dict[str, list[bool]] = defaultdict(list)
        for choice, hit in zip(choices, hits, strict=True):
            sort = "drawn worse" if choice.reason in FLAWS else "shown wrong"
            for reason in ("all", sort, choice.reason):
                right[reason].append(hit)
        shares[name] = {reason: _share(found) for reason, found in sorted(right.items())}
        said.append(hits)
    return shares | {"agree": _share([len(set(row)) == 1 for row in zip(*said, strict=True)])}


def _hits(towers: pick.Towers, choices: list[Choice], x_N3HW: Tensor) -> list[bool]:
    hits = []
    for start in range(0, len(choices), 50):
        chunk = choices[start : start + 50]
        text_ND = towers.prompts([choice.prompt for choice in chunk])
        pictures = towers.pictures(x_N3HW[2 * start : 2 * start + 2 * len(chunk)])
        cosines_N2 = torch.einsum("nd,nkd->nk", text_ND, pictures.view(len(chunk), 2, -1))
        hits += (cosines_N2[:, 0] > cosines_N2[:, 1]).tolist()
    return hits


def _share(hits: list[bool]) -> float:
    return round(sum(hits) / len(hits), 4)


@torch.no_grad()
def rank_correlation(
    towers: pick.Towers, head: dict[str, Tensor], takes: list[Take], vae: AutoencoderKL
) -> dict[str, float]:
    """Spearman's correlation of ratings with true quality: over all pictures, and over those of each kind of flaw."""
    x_N3HW = make_pictures(takes, vae)
    ratings = aesthetics.rate(head, torch.cat([towers.pictures(x) for x in hundreds(x_N3HW)])).tolist()
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for take, rating in zip(takes, ratings, strict=True):
        for kind in ("all", *([take.flaw.kind] if take.flaw else FLAWS)):
            found[kind].append((rating, take.quality))
    return {
        kind: round(float(spearmanr(*zip(*rows, strict=True)).statistic), 4) for kind, rows in sorted(found.items())
    }


def draw_meeting(seed: str) -> tuple[Take, ...]:
    """Somebody; the same elsewhere; somebody else elsewhere; somebody else just there; one unlike them in one thing."""
    rng = random.Random(seed)
    who, where, other = (dino.draw_somebody(rng, measured=True) for _ in range(3))
    while (near := _unlike_in_one(rng, who)) is None:
        who = dino.draw_somebody(rng, measured=True)
    while dino.identity(other) == dino.identity(who):
        other = dino.draw_somebody(rng, measured=True)
    elsewhere = dino.draw_somebody(rng, measured=True)
    people = (
        who,
        dino.in_surroundings(who, where),
        dino.in_surroundings(other, elsewhere),
        dino.in_surroundings(other, who),
        dino.in_surroundings(near, elsewhere),
    )
    return tuple(dino.take_of(rng, person) for person in people)


def _unlike_in_one(rng: random.Random, who: Person) -> Person | None:
    """Somebody for measuring; of a few people there is none who is unlike them in one thing only."""
    for _ in range(100):
        stranger, name = dino.draw_somebody(rng, measured=True), rng.choice(dino.IDENTITY)
        changed: dict[str, Any] = {name: getattr(stranger, name)}
        near = replace(who, **changed)
        if dino.identity(near) != dino.identity(who) and dino.held_out(near):
            return near
    return None


@torch.no_grad()
def same_is_nearer(weights: Path, meetings: list[tuple[Take, ...]], vae: AutoencoderKL) -> dict[str, dict[str, float]]:
    """How often the same person elsewhere is nearer (by cosine) than another: elsewhere, there, or almost alike."""
    x_N3HW = make_pictures([take for meeting in meetings for take in meeting], vae)
    vit, clip = load_dino(weights / "dino"), load_clip(weights / "clip")
    embeddings = {
        "dino": torch.cat([dino.embed(vit, x) for x in hundreds(x_N3HW)]),
        "clip": torch.cat([clip.pictures(x) for x in hundreds(x_N3HW)]),
    }
    shares = {}
    for name, rows_ND in embeddings.items():
        first, *others = rows_ND.view(len(meetings), MEETING, -1).unbind(1)
        same, *rest = [(first * other).sum(dim=1) for other in others]
        kinds = ("other_elsewhere", "other_in_the_same_place", "other_in_one_attribute")
        shares[name] = {
            kind: round((same > cosine).float().mean().item(), 4) for kind, cosine in zip(kinds, rest, strict=True)
        }
    return shares


def measure(weights: Path, split: str = "measure", share: float = 1.0) -> dict[str, object]:
    """All figures of the judges in `weights`, from so large a share of the usual number of pictures."""
    vae = load_vae(weights / "sdxl" / "vae", torch.device("cpu"))
    families, rated, meetings = (round(share * count) for count in (FAMILIES, RATED, MEETINGS))
    choices = [choice for family in pick.draw_families(split, families) for choice in choices_of(family)]
    judges = {name: load_clip(weights / name) for name in ("pick", "clip")} | {
        "hps": hps.towers(hps.load(weights / "hps"))
    }
    head = load_file(weights / "aesthetics" / "head.safetensors")
    return {
        "choices": len(choices),
        "better_preferred": better_preferred(judges, choices, vae),
        "rated": rated,
        "rank_correlation": rank_correlation(judges["pick"], head, aesthetics.draw_rated(split, rated), vae),
        "meetings": meetings,
        "same_is_nearer": same_is_nearer(weights, [draw_meeting(f"dino/{split}/{i}") for i in range(meetings)], vae),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    print(json.dumps(measure(parser.parse_args().weights), indent=1))


if __name__ == "__main__":
    main()
