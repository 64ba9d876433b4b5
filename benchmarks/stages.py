"""What the pipeline's work costs here: `python -m benchmarks.stages MODEL [--device cpu] [--side 64]`.

Times encoding and generation on the same checkpoint, and prints a table to paste into docs/benchmarks.md. For training
there is `benchmarks.train`.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sdxl_core.config import SamplingConfig
from sdxl_core.model import load_pipeline, load_vae
from sdxl_core.runtime import choose_device
from sdxl_core.sampling import Request, sample
from sdxl_core.text import Encoder

REPEATS = 7


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median wall time of `work` after one warm-up."""

    def once() -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(REPEATS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="diffusers folder of an SDXL checkpoint")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--side", type=int, default=64, help="picture side, pixels")
    args = parser.parse_args()
    device = choose_device(args.device)
    vae, encoder = load_vae(args.model / "vae", device), Encoder(args.model, device)
    pixels = torch.rand(1, 3, args.side, args.side, device=device)
    with torch.no_grad():
        encode_s = seconds(lambda: vae.encode(pixels).latent_dist.mean, device)
    text_s = seconds(lambda: encoder("a photo of a person"), device)
    sampling = SamplingConfig(steps=20, width_px=args.side, height_px=args.side)
    pipeline = load_pipeline(args.model, None, sampling, device)
    requests = [Request("a photo of a person", seed) for seed in range(8)]
    sample_s = seconds(lambda: sample(pipeline, requests, sampling), device) / len(requests)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}, ", end="")
    print(f"torch {torch.__version__}, {args.side} px\n")
    print("| work | time |\n|---|---|")
    print(f"| VAE encode, one picture | {encode_s * 1e3:.1f} ms |")
    print(f"| text encode, one caption | {text_s * 1e3:.1f} ms |")
    print(f"| generate, 20 steps with guidance, per picture in a batch of 8 | {sample_s * 1e3:.0f} ms |")


if __name__ == "__main__":
    main()
