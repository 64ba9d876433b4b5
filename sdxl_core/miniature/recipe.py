"""Train the whole miniature from nothing: `python -m sdxl_core.miniature.recipe` (`make miniature`).

Stages: vae, clip, probe (each from renders alone), then unet (with both text encoders, on the VAE's latents). Each
resumes, and may run in a process of its own (`--only vae`), since what one needs of another is on disk. At the end the
shipped folders are written and measured, `manifest.json` says what they are and where they came from, and the judges
(`sdxl_core.miniature.judges.recipe`) are trained on them.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import random
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sdxl_core.miniature import networks
from sdxl_core.miniature.assemble import digests, save_checkpoint, save_clip, save_probe
from sdxl_core.miniature.corpus import Corpus, make_corpus
from sdxl_core.miniature.face_pack import write_face_pack
from sdxl_core.miniature.fit import Schedule, fit, load_average, read_json, write_json
from sdxl_core.miniature.judges.recipe import train_judges
from sdxl_core.miniature.measure import measure
from sdxl_core.miniature.tokenizer import learn_tokenizer
from sdxl_core.miniature.world import STYLE, caption, draw_person
from sdxl_core.tensor_files import write_tensors

CORPUS_SIZE = 24_000
CORPUS_SEED = 1
DROPOUT_TO_ZEROS, DROPOUT_TO_EMPTY = 0.08, 0.04  # classifier-free guidance: both ways of saying nothing
MIN_SNR_GAMMA = 5.0
SCHEDULES = {
    "vae": Schedule(steps=1_400, learning_rate=2e-3),
    "clip": Schedule(steps=1_500, learning_rate=1e-3),
    "probe": Schedule(steps=3_200, learning_rate=5e-4),
    "unet": Schedule(steps=3_700, learning_rate=1e-3, decay_share=0.38, save_every_steps=100),
}
BATCH = {"vae": 16, "clip": 64, "probe": 64, "unet": 48}


class TextConditionedUnet(nn.Module):
    """The UNet and the text encoders that are trained with it."""

    def __init__(self, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> None:
        super().__init__()
        self.unet = networks.build_unet()
        self.text_encoder, self.text_encoder_2 = networks.build_text_encoders(*tokenizers)

    def encode(self, ids_BS: Tensor, ids_2_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids of both tokenizers -> text_BSE (next-to-last layers side by side), pooled_BP (second encoder)."""
        first = self.text_encoder(ids_BS, output_hidden_states=True)
        second = self.text_encoder_2(ids_2_BS, output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def world_tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    rng = random.Random("tokenizer")
    complete = [caption(draw_person(rng), rng, complete=True) for _ in range(4_000)]
    return learn_tokenizer([*complete, *(f"{start} a person" for start in STYLE.values())])


def rows_of(generator: torch.Generator, corpus: Corpus, batch: int) -> Tensor:
    return torch.randint(len(corpus), (batch,), generator=generator)


def train_vae(work: Path, corpus: Corpus) -> dict[str, float]:
    vae = networks.build_vae()

    def loss(g: torch.Generator) -> Tensor:
        x = corpus.pictures(rows_of(g, corpus, BATCH["vae"]))
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=g)
        y = vae.decode(posterior.mean + posterior.std * noise).sample
        divergence: Tensor = posterior.kl().mean() / posterior.mean[0].numel()
        return F.l1_loss(y, x) + _edge_error(y, x) + 1e-4 * divergence

    figures = fit("vae", vae, loss, SCHEDULES["vae"], work)
    mean, std = encode_all(vae, corpus)
    scale = 1.0 / (mean.var() + std.square().mean()).sqrt().item()
    vae.register_to_config(scaling_factor=scale)
    vae.save_pretrained(work / "vae", safe_serialization=True)
    return figures


def _edge_error(y: Tensor, x: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels: keeps outlines sharp."""
    across = (y.diff(dim=-1) - x.diff(dim=-1)).abs().mean()
    return across + (y.diff(dim=-2) - x.diff(dim=-2)).abs().mean()


@torch.no_grad()
def encode_all(vae: AutoencoderKL, corpus: Corpus) -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations of every picture, unscaled."""
    means, stds = [], []
    for rows in torch.split(torch.arange(len(corpus)), 100):
        posterior = vae.encode(corpus.pictures(rows)).latent_dist
        means.append(posterior.mean)
        stds.append(posterior.std)
    return torch.cat(means), torch.cat(stds)


def scaled_latents(work: Path, corpus: Corpus) -> tuple[Tensor, Tensor]:
    """The corpus through the finished VAE, scaled; kept in `work`, so that resuming does not encode it again."""
    weights = (work / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    path = work / f"latents-{hashlib.sha256(weights).hexdigest()[:12]}-{len(corpus)}.safetensors"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(work / "vae")
        mean, std = (vae.config.scaling_factor * value for value in encode_all(vae, corpus))
        write_tensors(path.with_suffix(".tmp"), {"mean": mean, "std": std})
        path.with_suffix(".tmp").replace(path)
    latents = load_file(path)
    return latents["mean"], latents["std"]


def train_clip(work: Path, corpus: Corpus) -> dict[str, float]:
    tokenizer, _ = world_tokenizers()
    clip = networks.build_clip(tokenizer)

    def loss(g: torch.Generator) -> Tensor:
        rows = rows_of(g, corpus, BATCH["clip"])
        words = corpus.captions(rows, seed=int(torch.randint(2**31, (), generator=g)))
        ids = tokenizer(words, padding="longest", return_tensors="pt").input_ids
        out: Tensor = clip(input_ids=ids, pixel_values=corpus.pictures(rows), return_loss=True).loss
        return out

    return fit("clip", clip, loss, SCHEDULES["clip"], work)


def train_probe(work: Path, corpus: Corpus) -> dict[str, float]:
    probe = networks.AttributeProbe()
    labels = corpus.labels()
    photo_N = labels["style"] == 0
    visible = {
        "hat_colour": photo_N & (labels["hat"] != 0),
        "hair_colour": photo_N & (labels["hair_style"] != networks.PROBE_HEADS["hair_style"].index("bald")),
        "skin": photo_N,
        "shirt_colour": photo_N,
    }

    def loss(g: torch.Generator) -> Tensor:
        rows = rows_of(g, corpus, BATCH["probe"])
        total = torch.zeros(())
        for name, logits in probe(corpus.pictures(rows)).items():
            seen = visible[name][rows].float() if name in visible else torch.ones(len(rows))
            error = F.cross_entropy(logits, labels[name][rows], reduction="none")
            total = total + (seen * error).sum() / seen.sum().clamp(min=1)
        return total

    return fit("probe", probe, loss, SCHEDULES["probe"], work)


def train_unet(work: Path, corpus: Corpus) -> dict[str, float]:
    mean, std = scaled_latents(work, corpus)
    tokenizers = world_tokenizers()
    model = TextConditionedUnet(tokenizers)
    alphas: Tensor = DDPMScheduler(**networks.NOISE_SCHEDULE).alphas_cumprod

    def ids(words: list[str], which: int) -> Tensor:
        out: Tensor = tokenizers[which](words, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return out

    def loss(g: torch.Generator) -> Tensor:
        rows = rows_of(g, corpus, BATCH["unet"])
        words = corpus.captions(rows, seed=int(torch.randint(2**31, (), generator=g)))
        lot = torch.rand(len(rows), generator=g)
        empty = (lot >= DROPOUT_TO_ZEROS) & (lot < DROPOUT_TO_ZEROS + DROPOUT_TO_EMPTY)
        words = ["" if e else w for e, w in zip(empty.tolist(), words, strict=True)]
        text, pooled = model.encode(ids(words, 0), ids(words, 1))
        kept = (lot >= DROPOUT_TO_ZEROS).float()
        text, pooled = text * kept[:, None, None], pooled * kept[:, None]
        x = mean[rows] + std[rows] * torch.randn(mean[rows].shape, generator=g)
        eps = torch.randn(x.shape, generator=g)
        t = torch.randint(1000, (len(rows),), generator=g)
        a = alphas[t]
        noisy = a.sqrt()[:, None, None, None] * x + (1 - a).sqrt()[:, None, None, None] * eps
        added = {"text_embeds": pooled, "time_ids": corpus.time_ids_N6[rows]}
        predicted: Tensor = model.unet(noisy, t, text, added_cond_kwargs=added).sample
        snr = a / (1 - a)
        weight = snr.clamp(max=MIN_SNR_GAMMA) / snr  # Hang et al. 2023 (arXiv:2303.09556), epsilon form
        return (weight * (predicted - eps).square().mean(dim=(1, 2, 3))).mean()

    return fit("unet", model, loss, SCHEDULES["unet"], work)


STAGES: dict[str, Callable[[Path, Corpus], dict[str, float]]] = {
    "vae": train_vae,
    "clip": train_clip,
    "probe": train_probe,
    "unet": train_unet,
}


def assemble(work: Path, weights: Path) -> None:
    """Write what the stages have learned as the folders `sdxl`, `clip` and `probe`, in float16; and `faces`."""
    tokenizers = world_tokenizers()
    model, clip, probe = TextConditionedUnet(tokenizers), networks.build_clip(tokenizers[0]), networks.AttributeProbe()
    for stage, module in (("unet", model), ("clip", clip), ("probe", probe)):
        load_average(work, stage, module)
    save_checkpoint(
        weights / "sdxl",
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        unet=model.unet,
        text_encoders=(model.text_encoder, model.text_encoder_2),
        tokenizers=tokenizers,
    )
    save_clip(weights / "clip", clip, tokenizers[0])
    save_probe(weights / "probe", probe)
    write_face_pack(weights / "faces")


def write_manifest(work: Path, weights: Path, sheet: Path) -> None:
    """Digest and measure the folders; also draw the contact sheet."""
    figures = measure(weights, sheet)
    manifest = digests(weights) | {
        "figures": figures,
        "training": {stage: read_json(work / f"{stage}.json") | {"batch": BATCH[stage]} for stage in STAGES},
        "command": "make miniature",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    write_json(weights / "manifest.json", manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/miniature"), help="where interrupted stages wait")
    parser.add_argument("--only", choices=sorted(STAGES), help="run this stage alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--weights", type=Path, default=Path(__file__).parent / "weights", help="what is shipped")
    parser.add_argument("--sheet", type=Path, default=Path("docs/miniature.png"), help="contact sheet")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    corpus = make_corpus(CORPUS_SIZE, CORPUS_SEED)
    for name in [args.only] if args.only else STAGES:
        torch.manual_seed(0)  # initial weights
        write_json(args.work / f"{name}.json", STAGES[name](args.work, corpus))
    if not args.only:
        assemble(args.work, args.weights)
        write_manifest(args.work, args.weights, args.sheet)
        train_judges(args.work, args.weights)


if __name__ == "__main__":
    main()
