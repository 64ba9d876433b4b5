"""Scanning a folder of many small files: `python -m benchmarks.scan [--files 100000] [--write]`.

Time, and memory in a process of its own. `--write` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from benchmarks.common import provenance, table, write_section
from sdxl_core.config import DatasetConfig
from sdxl_core.data.fingerprint import dataset_fingerprint
from tasks.dataset import prepare
from tasks.stage import materialise
from tasks.store import ArtifactStore

Timed = tuple[float, float]
"""Wall and processor seconds."""


def timed(work: Callable[[], object], device: torch.device) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def write_many(folder: Path, count: int) -> None:
    """Different 8 x 8 PNGs, a thousand a folder."""
    for i in range(count):
        if i % 1000 == 0:
            (folder / f"{i // 1000:05}").mkdir(parents=True)
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (i >> 16, i >> 8 & 255, i & 255)).save(buffer, "PNG")
        (folder / f"{i // 1000:05}" / f"{i:07}.png").write_bytes(buffer.getvalue())


def scanned(what: str, folder: str, store: str, answer: Callable[[str], None]) -> None:
    """In a process of its own, for the sake of its peak memory."""
    import sdxl_core.data.prepare  # noqa: F401  imported before the clock starts

    config, kept = DatasetConfig(source="prompt", path=folder, prompt="a photo"), ArtifactStore(Path(store))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def work() -> None:
        fingerprint = dataset_fingerprint(config, kept.digest_file.many)
        if what == "prepare":
            materialise(prepare(config, fingerprint), kept, "cpu")

    wall, cpu = timed(work, torch.device("cpu"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    answer(json.dumps([wall, cpu, grown * 1024]))


def in_process(what: str, folder: Path, store: Path) -> tuple[float, float, float]:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=scanned, args=(what, str(folder), str(store), answers.put))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"error: the scan that was measured ended with {process.exitcode}")
    wall, cpu, grown = json.loads(answers.get())
    return wall, cpu, grown


def measure_scan(count: int) -> list[tuple[str, str, str, str]]:
    works = [
        ("key the folder, cold", "key"),
        ("key it again", "key"),
        ("and the stage `dataset`: decode and keep all", "prepare"),
        ("the same, reused", "prepare"),
    ]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        write_many(folder, count)
        time.sleep(3)  # younger files are not remembered
        for name, what in works:
            wall, cpu, grown = in_process(what, folder, Path(place) / "store")
            rows.append((name, f"{wall:.1f} s", f"{cpu:.1f} s", f"{grown / count:.0f} B"))
            print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(arguments)
    rows = measure_scan(args.files)
    command = shlex.join(["python", "-m", "benchmarks.scan", *(a for a in arguments if a != "--write")])
    header = (f"{args.files:,} small files", "wall", "processor", "memory, each")
    text = f"{provenance(command, torch.device('cpu'))}\n\n{table(header, rows)}"
    print(text)
    if args.write:
        write_section("scan", text)


if __name__ == "__main__":
    main(sys.argv[1:])
