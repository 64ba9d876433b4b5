"""What the pipeline's work costs here: `python -m benchmarks.stages MODEL [--device cpu] [--side 64]`.

Times encoding, one training step against the bare UNet (forward and backward to the adapter's weights, nothing else),
and generation, all on the same checkpoint, and prints a table to paste into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from sdxl_core.adapters import ADAPTERS
from sdxl_core.batch import Batch
from sdxl_core.config import SamplingConfig
from sdxl_core.denoiser import Denoiser
from sdxl_core.ema import NoEma
from sdxl_core.loop import Trainer, TrainState, rows_per_step
from sdxl_core.model import load_pipeline, load_unet, load_vae
from sdxl_core.networks import Networks
from sdxl_core.objectives.diffusion import Diffusion
from sdxl_core.runtime import choose_device
from sdxl_core.sampling import Request, sample
from sdxl_core.scheduler import load_noise_schedule
from sdxl_core.stepping import build_stepping
from sdxl_core.text import Encoder
from sdxl_core.training_config import DiffusionObjective, LoraConfig, TrainingConfig
from sdxl_core.training_set import CachedImages, TrainingSet
from sdxl_core.training_text import CachedText
from sdxl_core.workers import Workers

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


def training_seconds(model: Path, latents_px: int, rows: int, device: torch.device) -> tuple[float, float]:
    """(one step of the loop, the bare UNet's forward and backward) with LoRA rank 16, float32."""
    config = TrainingConfig(adapter=LoraConfig(rank=16), micro_batch_size=rows)
    accelerator = Accelerator(cpu=device.type == "cpu")
    unet, schedule = load_unet(model), load_noise_schedule(model)
    trainable = ADAPTERS[config.adapter.kind](config.adapter).attach("unet", unet, seed=0)
    unet.to(device).train()
    width = unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    shape = (8, 1, unet.config.in_channels, latents_px, latents_px)
    images = CachedImages(torch.randn(shape), torch.rand(shape), torch.full((8, 1, 6), 64.0), ("",) * 8, ("",) * 8)
    text = CachedText(torch.randn(1, 77, width), torch.randn(1, pooled), torch.tensor([77]), {"": [0]})
    data = TrainingSet(
        images,
        None,
        text,
        config=config,
        scaling_factor=1.0,
        timesteps=schedule.timesteps,
        rows_per_step=rows_per_step(config, 1),
    )
    workers = Workers(1, 0)
    stepping = build_stepping(config, trainable, accelerator, workers)
    state = TrainState(Denoiser(Networks(unet), schedule.to(device), config), trainable, stepping, NoEma(), rows)
    objective = Diffusion(DiffusionObjective())
    batch: Batch = data.batch(0, range(rows)).to(device)

    def bare() -> None:
        state.denoiser.predict(batch).square().mean().backward()  # type: ignore[no-untyped-call]

    trainer = Trainer(state, data, objective, accelerator, workers, config, print)
    step = seconds(trainer.train_step, device)
    return step, seconds(bare, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="diffusers folder of an SDXL checkpoint")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--side", type=int, default=64, help="picture side, pixels")
    parser.add_argument("--rows", type=int, default=4, help="rows of a training step")
    args = parser.parse_args()
    device = choose_device(args.device)
    vae, encoder = load_vae(args.model / "vae", device), Encoder(args.model, device)
    pixels = torch.rand(1, 3, args.side, args.side, device=device)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        encode_s = seconds(lambda: vae.encode(pixels).latent_dist.mean, device)
    text_s = seconds(lambda: encoder("a photo of a person"), device)
    step_s, bare_s = training_seconds(args.model, latents.shape[-1], args.rows, device)
    sampling = SamplingConfig(steps=20, width_px=args.side, height_px=args.side)
    pipeline = load_pipeline(args.model, None, sampling, device)
    requests = [Request("a photo of a person", seed) for seed in range(8)]
    sample_s = seconds(lambda: sample(pipeline, requests, sampling), device) / len(requests)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}, ", end="")
    print(f"torch {torch.__version__}, {args.side} px, {args.rows} rows a step\n")
    print("| work | time |\n|---|---|")
    print(f"| VAE encode, one picture | {encode_s * 1e3:.1f} ms |")
    print(f"| text encode, one caption | {text_s * 1e3:.1f} ms |")
    print(f"| LoRA training step | {step_s * 1e3:.0f} ms |")
    print(f"| bare UNet, forward and backward | {bare_s * 1e3:.0f} ms (step / bare: {step_s / bare_s:.2f}) |")
    print(f"| generate, 20 steps with guidance, per picture in a batch of 8 | {sample_s * 1e3:.0f} ms |")


if __name__ == "__main__":
    main()
