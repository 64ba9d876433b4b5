"""What drawing pictures costs beside the bare UNet and decoder: `python -m benchmarks.generate [--size mid] ...`

From encoded prompts to PNG files in a store, as the stage `images` draws them, against the same calls of the UNet and
of the VAE's decoder on tensors that are there already; in turn, in one process.

    --size miniature | mid | sdxl   sdxl: of full size, random weights; needs a GPU
    --batch 1 2 4 8                 pictures drawn together
    --steps 5                       fewer than pictures have, which makes all else weigh more
    --without                       one row more for each technique that can be left out, at the last batch size
    --compile default               rows with sampling.compile, too
    --clock wall | cpu              cpu: time of the process, for a machine that is not idle
    --write                         put the table into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from benchmarks.common import provenance, table, write_section
from benchmarks.floor import CLOCKS, Clock, Figures, in_turn
from benchmarks.sizes import SIZES, checkpoint
from sdxl_core.ahead import Behind
from sdxl_core.cached_pictures import BATCHES_WAITING
from sdxl_core.config import SamplingConfig
from sdxl_core.decoding import Pixels
from sdxl_core.drawing_model import compile_for_drawing
from sdxl_core.model import load_pipeline
from sdxl_core.picture_files import parameters_text, png_bytes
from sdxl_core.prompt_embeddings import Guidance, Prompts, encoder_of
from sdxl_core.runtime import choose_device
from sdxl_core.sampling import Request, draw
from tasks.cells import DiskCells

HEADER = ["drawn", "together", "images/s", "floor images/s", "drawing / floor"]
DRAWING, FLOOR = "drawing", "floor"


@dataclass(frozen=True)
class Bench:
    """Where one size is measured."""

    size: str
    device: torch.device
    model: Path
    scratch: Path
    pictures: int
    steps: int
    rounds: int
    clock: Clock


class Drawing:
    """One way to draw the same pictures, round after round, each into a store of its own."""

    def __init__(self, bench: Bench, sampling: SamplingConfig) -> None:
        self.bench, self.sampling = bench, sampling
        self.pipeline = load_pipeline(bench.model, None, sampling, bench.device)
        self.requests = [Request(f"a photo of person number {i}", i) for i in range(bench.pictures)]
        self.prompts = self.encoded(self.requests)
        self.rounds = 0

    def encoded(self, requests: Sequence[Request]) -> Prompts:
        guidance = Guidance.of(self.sampling, zeros=True)
        encode = encoder_of(self.pipeline, self.sampling.max_chunks)
        return Prompts.encode([request.prompt for request in requests], guidance, self.sampling.max_chunks, encode)

    def __call__(self) -> None:
        """As `CachedPictures` does it."""
        write = self.writing()
        with Behind(BATCHES_WAITING * self.sampling.batch_size) as behind:
            for batch in draw(self.pipeline, self.requests, self.prompts, self.sampling):
                for drawn in batch:
                    behind.add(partial(write, drawn))

    def writing(self) -> Callable[[tuple[Request, Pixels]], None]:
        self.rounds += 1
        cells = DiskCells(self.bench.scratch / str(id(self)) / str(self.rounds))

        def write(drawn: tuple[Request, Pixels]) -> None:
            request, pixels = drawn
            text = parameters_text(request.prompt, request.seed, self.sampling, "benchmark")
            cells[f"{request.seed:064x}"] = png_bytes(Image.fromarray(pixels), {"parameters": text})

        return write


class WithoutThread(Drawing):
    """Each batch is written before the next is drawn."""

    def __call__(self) -> None:
        write = self.writing()
        for batch in draw(self.pipeline, self.requests, self.prompts, self.sampling):
            for drawn in batch:
                write(drawn)


class WithoutCachedPrompts(Drawing):
    """Prompts are encoded when their batch is drawn."""

    def __call__(self) -> None:
        size = self.sampling.batch_size
        write = self.writing()
        with Behind(BATCHES_WAITING * size) as behind:
            for start in range(0, len(self.requests), size):
                some = self.requests[start : start + size]
                for batch in draw(self.pipeline, some, self.encoded(some), self.sampling):
                    for drawn in batch:
                        behind.add(partial(write, drawn))


class GuidanceInTwoCalls(Drawing):
    """The UNet is asked twice a step, with the prompts and without."""

    def __init__(self, bench: Bench, sampling: SamplingConfig) -> None:
        super().__init__(bench, sampling)
        forward = self.pipeline.unet.forward

        def twice(x_BCHW: Tensor, t: Tensor, **kwargs: Any) -> tuple[Tensor]:
            added = kwargs.pop("added_cond_kwargs")
            text_BSE = kwargs.pop("encoder_hidden_states")
            halves = []
            for n in range(2):
                of_half = {name: value.chunk(2)[n] for name, value in added.items()}
                out = forward(
                    x_BCHW.chunk(2)[n],
                    t,
                    encoder_hidden_states=text_BSE.chunk(2)[n],
                    added_cond_kwargs=of_half,
                    **kwargs,
                )
                halves.append(out[0])
            return (torch.cat(halves),)

        self.pipeline.unet.forward = twice


WITHOUT: dict[str, type[Drawing]] = {
    "PNG not by a thread": WithoutThread,
    "prompts encoded for every batch": WithoutCachedPrompts,
    "guidance in two calls": GuidanceInTwoCalls,
}


@contextmanager
def kept_calls(pipeline: StableDiffusionXLPipeline) -> Iterator[list[Callable[[], object]]]:
    """The calls of UNet and decoder that are made meanwhile, to be made again on the same tensors."""
    calls: list[Callable[[], object]] = []
    decoder = pipeline.vae.decoder

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        calls.append(lambda: module(*args, **kwargs))

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in (pipeline.unet, decoder)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def measure(bench: Bench, sampling: SamplingConfig, kind: type[Drawing] = Drawing) -> Figures:
    """`kind` of drawing beside the floor of drawing as it is."""
    plain = Drawing(bench, sampling)
    with kept_calls(plain.pipeline) as calls:
        plain()
    drawing = plain if kind is Drawing else kind(bench, sampling)
    compile_for_drawing(plain.pipeline, sampling.compile)

    @torch.no_grad()
    def floor() -> None:
        for call in calls:
            call()

    drawing()
    return in_turn({DRAWING: drawing, FLOOR: floor}, bench.rounds, bench.device, bench.clock)


def line_of(bench: Bench, batch: int, name: str = "as it is", kind: type[Drawing] = Drawing, **more: Any) -> list[str]:
    side = SIZES[bench.size].resolution_px
    settings = {"steps": bench.steps, "width_px": side, "height_px": side, "batch_size": batch, **more}
    figures = measure(bench, SamplingConfig.model_validate(settings), kind)
    rates = [f"{bench.pictures / figures.median_s(work):.3g}" for work in (DRAWING, FLOOR)]
    line = [name, str(batch), *rates, figures.ratio(DRAWING, FLOOR)]
    print(" | ".join(line), file=sys.stderr, flush=True)
    return line


def lines_of(bench: Bench, args: argparse.Namespace) -> list[list[str]]:
    lines = [line_of(bench, batch) for batch in args.batch]
    if args.compile != "none":
        name = f"compile: {args.compile}"
        lines += [line_of(bench, batch, name, compile=args.compile) for batch in args.batch]
    last = args.batch[-1]
    if args.without:
        lines += [line_of(bench, last, name, kind) for name, kind in WITHOUT.items()]
        lines.append(line_of(bench, last, f"decode_batch_size: {last}", decode_batch_size=last))
    return lines


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="miniature")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without", action="store_true")
    parser.add_argument("--compile", choices=["none", "default", "cuda_graphs"], default="none")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(arguments)
    device = choose_device(args.device)
    if args.size == "sdxl" and device.type == "cpu":
        raise SystemExit("error: --size sdxl needs a GPU: a picture of the full size takes minutes on a CPU; take mid")
    with tempfile.TemporaryDirectory(prefix="sdxl-flows-bench-") as folder:
        root = Path(folder)
        model = checkpoint(SIZES[args.size], root / "model", device)
        clock = CLOCKS[args.clock]
        bench = Bench(args.size, device, model, root, args.pictures, args.steps, args.rounds, clock)
        lines = lines_of(bench, args)
    command = shlex.join(["python", "-m", "benchmarks.generate", *(a for a in arguments if a != "--write")])
    text = f"{provenance(command, device)}\n\n{table(HEADER, lines)}"
    print(text)
    if args.write:
        write_section(f"generate {args.size}", text)


if __name__ == "__main__":
    main(sys.argv[1:])
