"""What scoring costs: `python -m benchmarks.evaluate [--images 500] [--side 64] [--clip miniature] [--write]`.

One model's pictures, scored as the stage `scores` does it: by one scorer on CLIP and by four on the same CLIP,
together and apart; then again with one metric more, with nothing new, and with a twentieth more prompts. Beside the
seconds stands what was done: pictures decoded, passes of the picture network, prompts encoded. These are exact and the
same on every machine. The floor decodes every picture once on one thread and runs CLIP once over pixels that are there.

`--clip base` takes a CLIP of the size of `openai/clip-vit-base-patch32`, with random weights.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

import eval.images
from benchmarks.common import provenance, table, write_section
from benchmarks.sizes import MINIATURE
from eval.clip import ClipText, ClipVision, embedding_width
from eval.images import pixel_digest, read_image_set
from eval.score import Weights, score_metrics
from eval.scorers import MetricConfig
from eval.scorers.base import Metric
from sdxl_core.runtime import choose_device
from tasks.cells import DiskCells

HEADER = ["", "decoded", "passes", "prompts", "seconds", "of one scorer"]
HEAD_WIDTHS = (1024, 128, 64, 16, 1)
"""Of the aesthetic head's layers."""


@dataclass
class Work:
    """What scoring did."""

    decoded: int = 0
    passes: int = 0
    """Of the picture network, several pictures each."""
    prompts: int = 0
    seconds: float = 0.0


@contextmanager
def watched() -> Iterator[Work]:
    """Counts what is done inside."""
    work, started = Work(), time.perf_counter()
    decode, embed, encode = eval.images.open_rgb, ClipVision.embed, ClipText._embed

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            setattr(work, name, getattr(work, name) + 1)
            return function(*args)

        return run

    eval.images.open_rgb = counted("decoded", decode)
    ClipVision.embed, ClipText._embed = counted("passes", embed), counted("prompts", encode)  # type: ignore[method-assign]
    try:
        yield work
    finally:
        work.seconds = time.perf_counter() - started
        eval.images.open_rgb = decode
        ClipVision.embed, ClipText._embed = embed, encode  # type: ignore[method-assign]


@dataclass(frozen=True)
class World:
    """Pictures and weights to score with."""

    root: Path
    device: torch.device
    images: int

    @property
    def more(self) -> int:
        """Pictures that come with a twentieth more prompts."""
        return max(1, self.images // 20)

    def score(self, metrics: Sequence[Metric], cells: DiskCells, images: int) -> Work:
        weights = {metric.id: located(metric) for metric in metrics}
        out = Path(tempfile.mkdtemp(dir=self.root))
        sets = {"base": self.root / f"base-{images}"}
        with watched() as work:
            score_metrics(metrics=metrics, weights=weights, sets=sets, out=out, cells=cells, device=str(self.device))
        failed = [facts for facts in json.loads((out / "metrics.json").read_text()) if facts["not_run"]]
        assert not failed, failed
        return work

    def cells(self) -> DiskCells:
        return DiskCells(Path(tempfile.mkdtemp(dir=self.root)))

    def metrics(self, *names: str) -> tuple[Metric, ...]:
        clip = {"model": str(self.root / "clip")}
        settings: dict[str, dict[str, Any]] = {"aesthetics": {"head": str(self.root / "head.pth")}, "contrast": {}}
        asked = [{"metric": name, **({} if name == "contrast" else clip), **settings.get(name, {})} for name in names]
        adapter: TypeAdapter[tuple[Metric, ...]] = TypeAdapter(tuple[MetricConfig, ...])
        return adapter.validate_python(asked)


def located(metric: Metric) -> Weights:
    places = {field: Path(place) for field, place in metric.locations().items()}
    return Weights(places, {field: str(place) for field, place in places.items()})


def world(root: Path, images: int, side_px: int, clip: str, device: torch.device) -> World:
    if clip == "miniature":
        (root / "clip").symlink_to(MINIATURE.parent / "clip")
    else:
        write_clip(root / "clip")
    write_head(root / "head.pth", embedding_width(root / "clip"))
    place = World(root, device, images)
    for count in (images, images + place.more):
        write_set(root / f"base-{count}", count, side_px)
    return place


def write_clip(folder: Path) -> None:
    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "tokenizer")
    CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer).save_pretrained(folder)


def write_head(file: Path, width: int) -> None:
    """An aesthetic head of random weights."""
    state, wide = {}, width
    for layer, narrow in zip((0, 2, 4, 6, 7), HEAD_WIDTHS, strict=True):
        state[f"layers.{layer}.weight"] = torch.randn(narrow, wide) / wide
        state[f"layers.{layer}.bias"] = torch.zeros(narrow)
        wide = narrow
    torch.save(state, file)


def write_set(folder: Path, count: int, side_px: int) -> None:
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{i}.png", compress_level=1)
        facts = {"prompt_id": f"p{i}", "prompt": f"a photo of person {i}", "category": "", "replicate": 0, "seed": i}
        lines.append({"file": f"images/{i}.png", "image_sha256": pixel_digest(image), **facts})
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def floor(place: World) -> Work:
    vision = ClipVision(place.root / "clip", "floor", str(place.device))
    pictures = read_image_set(place.root / f"base-{place.images}")
    prepared = [vision.prepare([picture], [picture.load()]) for picture in pictures]
    with watched() as work:
        for picture in pictures:
            picture.load()
        for start in range(0, len(prepared), vision.rows_at_once):
            vision.answer(prepared[start : start + vision.rows_at_once])
    return work


def measure(place: World) -> dict[str, Work]:
    """What was done, by what was asked for. The second line is that which others are compared with."""
    four = ("clip_score", "clip_t", "pick_score", "aesthetics")
    known, count = place.cells(), place.images
    place.score(place.metrics(*four), place.cells(), count)  # what is imported once counts for none
    found = {"floor: decode once, CLIP once": floor(place)}
    found["one scorer on CLIP"] = place.score(place.metrics(four[0]), place.cells(), count)
    found["four scorers on the same CLIP"] = place.score(place.metrics(*four), known, count)
    apart = [place.score(place.metrics(name), place.cells(), count) for name in four]
    found["the four apart, each from nothing"] = Work(
        *(sum(getattr(work, name) for work in apart) for name in ("decoded", "passes", "prompts", "seconds"))
    )
    half = place.cells()
    place.score(place.metrics(*four[1:]), half, count)
    found["three known, one more on the same CLIP"] = place.score(place.metrics(*four), half, count)
    found["four known, one more of pixels"] = place.score(place.metrics(*four, "contrast"), known, count)
    found["nothing new"] = place.score(place.metrics(*four, "contrast"), known, count)
    more = f"{place.more} prompts more than {count}"
    found[more] = place.score(place.metrics(*four, "contrast"), known, count + place.more)
    return found


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="one of each prompt")
    parser.add_argument("--side", type=int, default=64, help="of a picture, in pixels")
    parser.add_argument("--clip", choices=["miniature", "base"], default="miniature")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    args = parser.parse_args(arguments)
    device = choose_device(args.device)
    with tempfile.TemporaryDirectory(prefix="sdxl-flows-bench-") as folder:
        found = measure(world(Path(folder), args.images, args.side, args.clip, device))
    one = list(found.values())[1].seconds
    rows = [
        (name, work.decoded, work.passes, work.prompts, f"{work.seconds:.2f}", f"{work.seconds / one:.2f}")
        for name, work in found.items()
    ]
    command = shlex.join(["python", "-m", "benchmarks.evaluate", *(a for a in arguments if a != "--write")])
    text = f"{provenance(command, device)}\n\n{table(HEADER, rows)}"
    print(text)
    if args.write:
        write_section("evaluate", text)


if __name__ == "__main__":
    main(sys.argv[1:])
