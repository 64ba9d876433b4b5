"""What scoring costs: `python -m benchmarks.score [--pictures 24] [--side 1024] [--write]`.

All metrics together as the stage `scores` runs them, against the floor (each picture decoded once, CLIP run once on
pixels that are there) and against the same metrics one by one, as separate tools would run them. Then once more with
all answers known, and with one prompt more. CLIP has the size of `openai/clip-vit-base-patch32` and random weights.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from benchmarks.common import provenance, table, write_section
from benchmarks.sizes import MINIATURE
from eval.clip import ClipVision
from eval.images import pixel_digest, read_image_set
from eval.score import Weights, score_metrics
from eval.scorers import MetricConfig
from eval.scorers.base import Metric
from sdxl_core.runtime import choose_device
from tasks.cells import DiskCells

SIDES = ("base", "candidate")
HEADER = ["", "seconds", "of the floor", "ms a picture"]


@dataclass(frozen=True)
class World:
    """Pictures and weights to score with."""

    root: Path
    metrics: tuple[Metric, ...]
    device: torch.device
    pictures: int

    def sets(self, pictures: int) -> dict[str, Path]:
        return {side: self.root / f"{side}-{pictures}" for side in SIDES}

    def score(self, metrics: Sequence[Metric], cells: DiskCells, pictures: int) -> None:
        weights = {metric.id: located(metric) for metric in metrics}
        out = Path(tempfile.mkdtemp(dir=self.root))
        sets, references = self.sets(pictures), self.root / "references"
        where = {"out": out, "device": str(self.device)}
        score_metrics(metrics=metrics, weights=weights, sets=sets, references=references, cells=cells, **where)
        failed = [facts for facts in json.loads((out / "metrics.json").read_text()) if facts["not_run"]]
        assert not failed, failed

    def fresh_cells(self) -> DiskCells:
        return DiskCells(Path(tempfile.mkdtemp(dir=self.root)))


def located(metric: Metric) -> Weights:
    places = {field: Path(place) for field, place in metric.locations().items()}
    return Weights(places, {field: str(place) for field, place in places.items()})


def world(root: Path, pictures: int, side_px: int, device: torch.device) -> World:
    clip, trunk = root / "clip", root / "trunk.safetensors"
    write_clip(clip)
    save_file(squeezenet1_1(weights=None).features.state_dict(), trunk)
    for count in (pictures, pictures + 1):
        for number, side in enumerate(SIDES):
            write_set(root / f"{side}-{count}", count, side_px, seed=number)
    shutil.copytree(root / f"base-{pictures}", root / "references")
    dataset_records(root / "references")
    asked: list[dict[str, Any]] = [
        {"metric": "clip_i", "model": str(clip)},
        {"metric": "clip_score", "model": str(clip)},
        {"metric": "clip_score", "name": "again", "model": str(clip)},
        {"metric": "lpips", "net": "squeeze", "trunk": str(trunk), "linear": False},
        {"metric": "ssim"},
    ]
    adapter: TypeAdapter[tuple[Metric, ...]] = TypeAdapter(tuple[MetricConfig, ...])
    return World(root, adapter.validate_python(asked), device, pictures)


def write_clip(folder: Path) -> None:
    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "tokenizer")
    CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer).save_pretrained(folder)


def write_set(folder: Path, count: int, side_px: int, seed: int) -> None:
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(count):
        coarse = np.random.default_rng([seed, i]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{i}.png", compress_level=1)
        facts = {"prompt_id": f"p{i}", "prompt": f"a photo of person {i}", "category": "", "replicate": 0, "seed": i}
        lines.append({"file": f"images/{i}.png", "image_sha256": pixel_digest(image), **facts})
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def dataset_records(folder: Path) -> None:
    """Of a dataset artifact, in place of an image set's."""
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    rows = [{"image": line["file"], "sha256": f"reference {line['seed']}"} for line in lines]
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def floor(place: World) -> Callable[[], None]:
    """Decode each picture of both sets and of the dataset once, on one thread; then CLIP once on each."""
    clip = place.root / "clip"
    vision = ClipVision(clip, "floor", str(place.device))
    sets = place.sets(place.pictures)
    pictures = [picture for side in SIDES for picture in read_image_set(sets[side])]
    prepared = [vision.prepare([picture], [picture.load()]) for picture in pictures]
    prepared += prepared[: place.pictures]

    def work() -> None:
        for picture in (*pictures, *pictures[: place.pictures]):
            picture.load()
        for start in range(0, len(prepared), vision.rows_at_once):
            vision.answer(prepared[start : start + vision.rows_at_once])

    return work


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(place: World) -> Mapping[str, float]:
    bare = floor(place)
    found = {"floor: decode once, CLIP once": seconds(bare)}
    known = place.fresh_cells()
    embedded = [metric for metric in place.metrics if metric.scored == "picture"]
    found["metrics on CLIP together"] = seconds(lambda: place.score(embedded, place.fresh_cells(), place.pictures))
    found["metrics on CLIP one by one, each from nothing"] = sum(
        seconds(lambda metric=metric: place.score([metric], place.fresh_cells(), place.pictures)) for metric in embedded
    )
    found["all, pair metrics too"] = seconds(lambda: place.score(place.metrics, known, place.pictures))
    found["all once more, nothing changed"] = seconds(lambda: place.score(place.metrics, known, place.pictures))
    found["all with one prompt more"] = seconds(lambda: place.score(place.metrics, known, place.pictures + 1))
    return found


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24, help="of each of two models, and of the dataset")
    parser.add_argument("--side", type=int, default=1024, help="of a picture, in pixels")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    args = parser.parse_args(arguments)
    device = choose_device(args.device)
    with tempfile.TemporaryDirectory(prefix="sdxl-flows-bench-") as folder:
        place = world(Path(folder), args.pictures, args.side, device)
        found = measure(place)
    base_s = next(iter(found.values()))
    each = 3 * args.pictures
    rows = [
        (name, f"{value:.2f}", f"{value / base_s:.2f}", f"{1e3 * value / each:.0f}") for name, value in found.items()
    ]
    command = shlex.join(["python", "-m", "benchmarks.score", *(a for a in arguments if a != "--write")])
    text = f"{provenance(command, device)}\n\n{table(HEADER, rows)}"
    print(text)
    if args.write:
        write_section("score", text)


if __name__ == "__main__":
    main(sys.argv[1:])
