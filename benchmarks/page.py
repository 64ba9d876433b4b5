"""How long a report of many pairs takes to open: `python -m benchmarks.page [--pairs 500]`. Needs Chromium.

Its pictures are drawn noise of a photograph's size, its scores are drawn too; the page is the one that runs make.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.verdicts import Truth, evaluation_of, scores_of
from eval.compare import compare
from eval.images import pixel_digest, read_image_set
from eval.report import build_report
from eval.score import METRICS_FILE, describe
from eval.table import write_pictures, write_scores
from tests.eval.browser import browser, find_chromium

SIDE_PX = 1024
GRAIN = 5.0  # a thumbnail of 384 px is then about 17 kB, as those of photographs are
LOADED = """addEventListener("load", () => {
  document.body.getBoundingClientRect();
  window.loaded = performance.now();
});"""
SEARCH = """(() => {
  const begun = performance.now();
  document.querySelector("[data-tab='all']").click();
  const box = document.querySelector(".filters input");
  box.value = "forest 7";
  box.dispatchEvent(new Event("input"));
  const found = document.querySelector(".filters output").textContent;
  return [performance.now() - begun, found];
})()"""


def picture(seed: int) -> Image.Image:
    """Soft shapes and some grain, so that it compresses about as a photograph does."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    soft = shapes.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    grain = np.repeat(np.repeat(rng.normal(0, GRAIN, (SIDE_PX // 4, SIDE_PX // 4, 1)), 4, 0), 4, 1)
    return Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))


def image_set(folder: Path, pairs: int, seed: int) -> Path:
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(pairs):
        drawn = picture(seed + number % 40)  # forty different ones; drawing more would tell nothing more
        name = f"images/{number}.png"
        drawn.save(folder / name, compress_level=1)
        place = ("city", "forest", "sea")[number % 3]
        lines.append({
            "file": name, "prompt_id": f"p{number}", "prompt": f"a photo of a person in a {place} {number}",
            "category": place, "replicate": 0, "seed": 0, "image_sha256": pixel_digest(drawn),
        })  # fmt: skip
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "set.json").write_text(
        json.dumps({"model": {"digest": hashlib.sha256(folder.name.encode()).hexdigest()}})
    )
    return folder


def make_report(folder: Path, pairs: int) -> Path:
    truth = Truth(pairs, (0.3, 0.0))
    evaluation = evaluation_of(truth, 0, 9999)
    sets = {side: image_set(folder / side, pairs, 1000 * place) for place, side in enumerate(("base", "candidate"))}
    scores = folder / "scores"
    scores.mkdir()
    write_scores(scores_of(truth, evaluation, np.random.default_rng(0)).rows, scores)
    write_pictures({side: read_image_set(place) for side, place in sets.items()}, scores)
    facts = [
        {**describe(metric), "weights": {}, "truncated_prompts": [], "left_out": {}, "not_run": ""}
        for metric in evaluation.metrics
    ]
    (scores / METRICS_FILE).write_text(json.dumps(facts))
    compare(evaluation=evaluation, scores=scores, out=folder / "comparison")
    build_report(
        title="page", comparison=folder / "comparison", base=sets["base"], candidate=sets["candidate"], references=None,
        training=None, provenance={}, command="python -m benchmarks.page", config_yaml="", out=folder / "report",
    )  # fmt: skip
    return folder / "report" / "report.html"


def opened(page: Path, chromium: str) -> str:
    """Milliseconds until all is laid out, processor time of the page's main thread, and what a search takes and finds.

    The browser is another one each time.
    """
    with tempfile.TemporaryDirectory() as profile, browser(chromium, Path(profile)) as found:
        found.open(page, beforehand=LOADED)
        processor_ms = 1000 * found.processor_s
        loaded_ms = found.run("window.loaded")
        search_ms, words = found.run(SEARCH)
    return f"opened in {loaded_ms:.0f} ms ({processor_ms:.0f} of processor time), {words} found in {search_ms:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--keep", type=Path, help="copy the page here")
    args = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        sys.exit("benchmarks.page opens the page in Chromium; install it, or put it on PATH")
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        page = make_report(Path(folder), args.pairs)
        print(f"{args.pairs} pairs: {page.stat().st_size / 1e6:.1f} MB, made in {time.perf_counter() - begin:.0f} s")
        for _ in range(3):
            print(opened(page, chromium), flush=True)
        if args.keep:
            shutil.copyfile(page, args.keep)


if __name__ == "__main__":
    main()
