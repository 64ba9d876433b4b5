"""The cached inputs of training, and which rows a step sees.

All tensors stay in memory on the training device; a batch is indexing and arithmetic. Every draw is a function of
(seed, optimizer step, slot), the slot being a row's place among all rows of the step, whatever micro-batch,
accumulation step or process computes it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sdxl_core import randomness
from sdxl_core.batch import Batch, Conditioning
from sdxl_core.errors import UserError
from sdxl_core.noise import draw_noise, draw_timestep
from sdxl_core.training_config import TrainingConfig

# N pictures, V variants, B rows, U captions


@dataclass(frozen=True)
class CachedImages:
    """Pictures as posteriors, with the caption each one has."""

    mean_NVCHW: Tensor
    std_NVCHW: Tensor
    time_ids_NV6: Tensor
    caption_rows_N: Tensor
    sha256s: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sha256s)

    def split(self, held_out: Collection[str]) -> tuple[CachedImages, CachedImages]:
        """(those to train on, those whose digest is among `held_out`), each in the order they had."""
        inside = torch.tensor([sha256 in held_out for sha256 in self.sha256s])
        return self._where(~inside), self._where(inside)

    def _where(self, chosen_N: Tensor) -> CachedImages:
        return CachedImages(
            self.mean_NVCHW[chosen_N],
            self.std_NVCHW[chosen_N],
            self.time_ids_NV6[chosen_N],
            self.caption_rows_N[chosen_N],
            tuple(compress(self.sha256s, chosen_N.tolist())),
        )


@dataclass(frozen=True)
class CachedText:
    text_UTE: Tensor
    pooled_UP: Tensor
    rows: dict[str, int]

    @staticmethod
    def load(folder: Path) -> CachedText:
        tensors = load_file(folder / "text.safetensors")
        captions: list[str] = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
        return CachedText(tensors["text_UTE"], tensors["pooled_UP"], {c: i for i, c in enumerate(captions)})


def load_images(folder: Path, text: CachedText) -> CachedImages:
    """Raises UserError when a picture's caption is not among the encoded ones."""
    tensors = load_file(folder / "latents.safetensors")
    index = [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    if unknown := [row["text"] for row in index if row["text"] not in text.rows]:
        raise UserError(f"{folder.name}: caption {unknown[0]!r} was not encoded; encode this dataset's text first")
    return CachedImages(
        tensors["mean_NVCHW"],
        tensors["std_NVCHW"],
        tensors["time_ids_NV6"],
        torch.tensor([text.rows[row["text"]] for row in index]),
        tuple(row["image_sha256"] for row in index),
    )


class TrainingSet:
    """Batches for any optimizer step, without state."""

    def __init__(
        self,
        instances: CachedImages,
        class_images: CachedImages | None,
        text: CachedText,
        *,
        config: TrainingConfig,
        scaling_factor: float,
        timesteps: int,
        rows_per_step: int,
    ) -> None:
        self.groups = [instances] + ([class_images] if class_images is not None else [])
        self.text = text
        self.config = config
        self.scaling_factor = scaling_factor
        self.timesteps = timesteps
        self.rows_per_step = rows_per_step
        self._orders: dict[tuple[int, int], list[int]] = {}

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The rows of `slots` at `step`: instance rows, then (with class images) as many class rows."""
        drawn = [self._row(group, step, slot) for group in range(len(self.groups)) for slot in slots]
        x, eps, input_eps, t, ids, captions = zip(*drawn, strict=True)
        caption_rows = torch.tensor(captions)
        conditioning = Conditioning(
            self.text.text_UTE[caption_rows], self.text.pooled_UP[caption_rows], torch.stack(ids)
        )
        return Batch(torch.stack(x), conditioning, torch.stack(eps), torch.stack(input_eps), torch.tensor(t))

    def pictures(self, step: int, slots: Sequence[int]) -> list[str]:
        """sha256 of the pictures in `batch(step, slots)`, to name a sample that did damage."""
        return [group.sha256s[self._picture(g, step, slot)] for g, group in enumerate(self.groups) for slot in slots]

    def _row(self, group: int, step: int, slot: int) -> tuple[Tensor, Tensor, Tensor, int, Tensor, int]:
        images = self.groups[group]
        picture = self._picture(group, step, slot)
        draw = (self.config.seed, group, step, slot)
        variant = randomness.integer(images.mean_NVCHW.shape[1], "variant", *draw)
        mean, std = images.mean_NVCHW[picture, variant], images.std_NVCHW[picture, variant]
        shape = (mean.shape[0], mean.shape[1], mean.shape[2])
        x = (mean + std * randomness.normal(shape, "posterior", *draw)) * self.scaling_factor
        eps, input_eps = draw_noise(shape, self.config.noise, *draw)
        t = draw_timestep(self.config.timesteps, self.timesteps, *draw)
        dropped = group == 0 and randomness.uniform("caption", *draw) < self.config.caption_dropout
        caption = 0 if dropped else int(images.caption_rows_N[picture])
        return x, eps, input_eps, t, images.time_ids_NV6[picture, variant], caption

    def _picture(self, group: int, step: int, slot: int) -> int:
        """Every picture once per epoch, in an order of the epoch's own."""
        size = len(self.groups[group])
        epoch, place = divmod(step * self.rows_per_step + slot, size)
        if (group, epoch) not in self._orders:
            order = randomness.permutation(size, "order", self.config.seed, group, epoch)
            self._orders = {k: v for k, v in self._orders.items() if k[1] >= epoch - 1} | {(group, epoch): order}
        return self._orders[group, epoch][place]
