"""What caching costs: `python -m benchmarks.caching [--size miniature mid] ...`

Latents and text, from JPEGs and captions to artifacts, against loading the networks and running them alone on batches
that are ready; in turn, in one process. Then decoding by one thread, several and processes, and one picture more in a
cached dataset. `benchmarks.scan` measures the scan of a folder.

    --size miniature mid     one row each; encoders: of full size, random weights
    --of latents text        or one of them
    --pictures 24            instead of as many as take some seconds on a CPU, for encoders on a GPU
    --rounds 5
    --clock wall | cpu       cpu: time of the process, for a machine that is not idle
    --write                  put the tables into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import provenance, table, write_section
from benchmarks.floor import CLOCKS, in_turn
from benchmarks.sizes import MINIATURE, SIZES, checkpoint
from sdxl_core.ahead import WORKERS, in_order
from sdxl_core.config import DatasetConfig, TransformConfig
from sdxl_core.data.buckets import Size
from sdxl_core.data.decode import open_rgb
from sdxl_core.data.prepare import prepare_dataset
from sdxl_core.data.records import read_records
from sdxl_core.data.transform import View, variants
from sdxl_core.encoding import in_batches
from sdxl_core.latents import encode_latents, rows_at_once
from sdxl_core.model import load_vae
from sdxl_core.runtime import choose_device
from sdxl_core.text import Encoder, encode_text
from tasks.cells import DiskCells

PICTURES = {"miniature": 150, "mid": 24, "encoders": 96}
HEADER = ["encoded", "stage, each", "floor, each", "stage / floor"]
STAGE, FLOOR = "stage", "floor"
Works = Mapping[str, Callable[[], object]]


def write_photos(folder: Path, count: int, side: int) -> Path:
    """JPEGs of noise that was blurred, twice as large as what is trained on, with a caption each; prepared."""
    source = folder / "source"
    source.mkdir(parents=True)
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((2 * side, 2 * side), Image.Resampling.BICUBIC).save(source / f"{i:05}.jpg")
        (source / f"{i:05}.txt").write_text(f"a photo of thing {i}, {random.Random(i).random()}")
    prepare_dataset(DatasetConfig(source="captions", path=str(source)), folder / "dataset")
    return folder / "dataset"


def views_of(path: Path, sha256: str, transform: TransformConfig) -> list[View]:
    size = Size(transform.resolution_px, transform.resolution_px)
    return variants(open_rgb(path), size, sha256, transform)


def works_on_latents(dataset: Path, model: Path, side_px: int, device: torch.device) -> Works:
    transform = TransformConfig(resolution_px=side_px)
    views = [views_of(dataset / r.image, r.sha256, transform)[0].pixels_CHW for r in read_records(dataset)]
    rows = rows_at_once(device, Size(side_px, side_px))
    batches = [torch.from_numpy(np.stack(batch)) for batch in in_batches(views, rows)]

    @torch.no_grad()
    def floor() -> None:
        vae = load_vae(model / "vae", device)
        for batch in batches:
            vae.encode(batch.to(device))

    def stage() -> None:
        with tempfile.TemporaryDirectory() as place:
            _encode_latents(dataset, model, transform, Path(place) / "out", Path(place) / "cells", device)

    return {STAGE: stage, FLOOR: floor}


def works_on_text(dataset: Path, model: Path, side_px: int, device: torch.device) -> Works:
    ready = Encoder(model, device)
    captions = {record.text for record in read_records(dataset)} | {""}  # every artifact has that of no caption
    texts = [ready.tokens(text).ids_NKT for text in sorted(captions)]
    batches = [torch.stack(batch) for batch in in_batches(texts, ready.rows)]

    @torch.no_grad()
    def floor() -> None:
        encoders = Encoder(model, device).encoders
        for ids_BNKT in batches:
            encoders(ids_BNKT.to(device))

    def stage() -> None:
        with tempfile.TemporaryDirectory() as place:
            out, cells = Path(place) / "out", DiskCells(Path(place) / "cells")
            encode_text(datasets=[dataset], model=model, model_digest="m", out=out, cells=cells, device=device.type)

    return {STAGE: stage, FLOOR: floor}


WORKS = {"latents": works_on_latents, "text": works_on_text}


def _encode_latents(
    dataset: Path, model: Path, transform: TransformConfig, out: Path, cells: Path, device: torch.device
) -> dict[str, int]:
    return encode_latents(
        transform=transform,
        dataset=dataset,
        vae=model / "vae",
        vae_digest="v",
        out=out,
        cells=DiskCells(cells),
        device=device.type,
    )


def lines_of(size: str, args: argparse.Namespace, device: torch.device) -> list[list[str]]:
    """Of a size's latents and text."""
    count, side_px = args.pictures or PICTURES[size], SIZES[size].resolution_px
    lines = []
    with tempfile.TemporaryDirectory(prefix="sdxl-flows-bench-") as place:
        model = checkpoint(SIZES[size], Path(place) / "model", device)
        dataset = write_photos(Path(place) / "photos", count, side_px)
        for what in args.of:
            name = f"{what}, {size}"
            figures = in_turn(WORKS[what](dataset, model, side_px, device), args.rounds, device, CLOCKS[args.clock])
            each = [f"{1e3 * figures.median_s(work) / count:.2f} ms" for work in (STAGE, FLOOR)]
            lines.append([name, *each, figures.ratio(STAGE, FLOOR)])
            print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    return lines


def decode_one(path: Path) -> int:
    return len(views_of(path, "0" * 64, TransformConfig(resolution_px=512)))


def decoding_rates(side: int = 1024, count: int = 24) -> list[tuple[str, str]]:
    """Pictures a second, decoded and resized to 512 px."""
    one, several, others = "one thread", f"{WORKERS} threads", f"{WORKERS} processes"
    with tempfile.TemporaryDirectory() as place:
        source = write_photos(Path(place), count, side) / "images"
        paths = sorted(source.iterdir())

        with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as processes:
            works = {
                one: lambda: list(map(decode_one, paths)),
                several: lambda: list(in_order(decode_one, paths)),
                others: lambda: list(processes.map(decode_one, paths)),
            }
            list(processes.map(decode_one, paths))  # they import first
            figures = in_turn(works, 3, torch.device("cpu"), time.perf_counter)
    return [
        (f"decode {2 * side} px JPEG, {name}", f"{count / figures.median_s(name):.1f} pictures/s")
        for name in (one, several, others)
    ]


def measure_incremental(count: int, device: torch.device) -> list[tuple[str, str]]:
    """A dataset of `count`, cached; then one more."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for label, pictures in (("all new", count), ("nothing new", count), ("one more", count + 1)):
            dataset = write_photos(Path(place) / label, pictures, 64)
            began = time.perf_counter()
            out, cells = Path(place) / label / "out", Path(place) / "cells"
            told = _encode_latents(dataset, MINIATURE, TransformConfig(resolution_px=64), out, cells, device)
            spent = time.perf_counter() - began
            rows.append((f"{label}: encoded {told['encoded']}, reused {told['reused']}", f"{spent:.1f} s"))
    return rows


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=PICTURES, nargs="+", default=["miniature", "mid"])
    parser.add_argument("--of", choices=WORKS, nargs="+", default=list(WORKS))
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(arguments)
    device = choose_device(args.device)
    command = shlex.join(["python", "-m", "benchmarks.caching", *(a for a in arguments if a != "--write")])
    parts = [
        provenance(command, device),
        table(HEADER, [line for size in args.size for line in lines_of(size, args, device)]),
    ]
    if args.size != ["encoders"]:
        parts.append(table(("work", "rate"), decoding_rates()))
        parts.append(table(("latents of 500 pictures, 64 px", "wall time"), measure_incremental(500, device)))
    text = "\n\n".join(parts)
    print(text)
    if args.write:
        write_section("caching encoders" if args.size == ["encoders"] else "caching", text)


if __name__ == "__main__":
    main(sys.argv[1:])
