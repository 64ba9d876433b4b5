"""How good the miniature is, measured: `python -m sdxl_core.miniature.measure WEIGHTS --sheet docs/miniature.png`.

Fresh people, whom training has not seen, are described in full, generated from their captions, and read back by the
attribute probe; the same people, rendered, say what the probe itself can do.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from sdxl_core.config import SamplingConfig
from sdxl_core.miniature.assemble import load_probe
from sdxl_core.miniature.networks import PROBE_HEADS, AttributeProbe
from sdxl_core.miniature.render import SIDE_PX, render
from sdxl_core.miniature.world import Person, caption, draw_person, draw_view
from sdxl_core.model import load_pipeline, load_vae
from sdxl_core.sampling import Request, sample

PEOPLE = 256
CLIP_CHOICES = 64
SAMPLING = SamplingConfig(steps=25, guidance_scale=5.0, width_px=SIDE_PX, height_px=SIDE_PX, batch_size=32)


def fresh_people(count: int) -> tuple[list[Person], list[Image.Image], list[str]]:
    """People, their rendered portraits and complete captions, none of which training saw."""
    people, portraits, captions = [], [], []
    for i in range(count):
        rng = random.Random(f"measure/{i}")
        person = draw_person(rng, style="photo")
        people.append(person)
        portraits.append(render(person, draw_view(rng)))
        captions.append(caption(person, rng, complete=True))
    return people, portraits, captions


def to_tensor(pictures: list[Image.Image]) -> Tensor:
    """RGB pictures -> x_BCHW in [-1, 1]."""
    x_BHWC = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures]))
    return x_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def attribute_accuracy(probe: AttributeProbe, pictures: list[Image.Image], people: list[Person]) -> dict[str, float]:
    """Share of pictures on which the probe reads what the person has, by attribute; colours where they are worn."""
    logits = probe(to_tensor(pictures))
    right = {name: _right(logits[name], name, people) for name in PROBE_HEADS}
    hat_on = torch.tensor([p.hat != "none" for p in people])
    haired = torch.tensor([p.hair_style != "bald" for p in people])
    presence = (logits["hat"].argmax(1) != 0) == hat_on
    counted = {"hat_colour": hat_on, "hair_colour": haired}
    shares = {n: right[n][counted[n]] if n in counted else right[n] for n in right if n != "style"}
    return {n: round(v.float().mean().item(), 4) for n, v in {"hat_presence": presence, **shares}.items()}


def _right(logits: Tensor, name: str, people: list[Person]) -> Tensor:
    wanted = [PROBE_HEADS[name].index(str(getattr(p, name))) for p in people]
    return logits.argmax(1) == torch.tensor(wanted)


@torch.no_grad()
def vae_psnr_db(folder: Path, pictures: list[Image.Image]) -> float:
    """Mean peak signal-to-noise ratio of reconstructed portraits, decibels."""
    vae = load_vae(folder, torch.device("cpu"))
    x = to_tensor(pictures)
    y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    error_B = ((y - x) / 2).square().mean(dim=(1, 2, 3))
    return round((10 * torch.log10(1 / error_B)).mean().item(), 2)


@torch.no_grad()
def clip_right_caption(folder: Path, pictures: list[Image.Image], captions: list[str]) -> float:
    """Share of portraits whose own caption CLIP ranks first among 64."""
    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    hits = 0
    for start in range(0, len(pictures), CLIP_CHOICES):
        chunk = slice(start, start + CLIP_CHOICES)
        inputs = processor(
            text=captions[chunk], images=pictures[chunk], return_tensors="pt", padding=True, truncation=True
        )
        logits = clip(**inputs).logits_per_image
        hits += int((logits.argmax(1) == torch.arange(len(logits))).sum())
    return round(hits / len(pictures), 4)


def generate(folder: Path, captions: list[str]) -> list[Image.Image]:
    pipeline = load_pipeline(folder, None, SAMPLING, torch.device("cpu"))
    requests = [Request(words, seed) for seed, words in enumerate(captions)]
    return sample(pipeline, requests, SAMPLING)


def contact_sheet(generated: list[Image.Image], rendered: list[Image.Image], columns: int = 12) -> Image.Image:
    """Rows of rendered portraits over the generated ones of the same captions, twice their size."""
    rows = math.ceil(min(len(generated), 4 * columns) / columns)
    sheet = Image.new("RGB", (columns * SIDE_PX, rows * (2 * SIDE_PX + 8)), "white")
    for i in range(min(len(generated), rows * columns)):
        x, y = (i % columns) * SIDE_PX, (i // columns) * (2 * SIDE_PX + 8)
        sheet.paste(rendered[i], (x, y))
        sheet.paste(generated[i], (x, y + SIDE_PX))
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)


def measure(weights: Path, sheet: Path | None) -> dict[str, object]:
    """All figures of the folder `weights` ({sdxl, clip, probe}); writes the contact sheet to `sheet`."""
    people, portraits, captions = fresh_people(PEOPLE)
    started = time.monotonic()
    generated = generate(weights / "sdxl", captions)
    seconds = time.monotonic() - started
    if sheet is not None:
        contact_sheet(generated, portraits).save(sheet, optimize=True)
    probe = load_probe(weights / "probe")
    return {
        "people": PEOPLE,
        "steps": SAMPLING.steps,
        "guidance_scale": SAMPLING.guidance_scale,
        "generated": attribute_accuracy(probe, generated, people),
        "rendered": attribute_accuracy(probe, portraits, people),
        "vae_psnr_db": vae_psnr_db(weights / "sdxl" / "vae", portraits),
        "clip_right_of_64": clip_right_caption(weights / "clip", portraits, captions),
        "clip_right_of_64_generated": clip_right_caption(weights / "clip", generated, captions),
        "seconds_per_picture": round(seconds / PEOPLE, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    print(json.dumps(measure(args.weights, args.sheet), indent=1))


if __name__ == "__main__":
    main()
