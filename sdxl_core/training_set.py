"""The cached inputs of training, and which rows a step sees.

All tensors stay in memory on the training device; a batch is indexing and arithmetic. Every draw is a function of
(seed, optimizer step, slot), the slot being a row's place among all rows of the step, whatever micro-batch,
accumulation step or process computes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sdxl_core import randomness
from sdxl_core.batch import Batch, Conditioning
from sdxl_core.errors import UserError
from sdxl_core.noise import draw_noise, draw_timestep
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_text import TrainingText

# N pictures, V variants, B rows


@dataclass(frozen=True)
class CachedImages:
    """Pictures as posteriors, with the caption each one has."""

    mean_NVCHW: Tensor
    std_NVCHW: Tensor
    time_ids_NV6: Tensor
    captions: tuple[str, ...]
    sha256s: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sha256s)


def load_images(folder: Path) -> CachedImages:
    """What the latents artifact holds."""
    tensors = load_file(folder / "latents.safetensors")
    index = [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    return CachedImages(
        tensors["mean_NVCHW"],
        tensors["std_NVCHW"],
        tensors["time_ids_NV6"],
        tuple(row["text"] for row in index),
        tuple(row["image_sha256"] for row in index),
    )


class TrainingSet:
    """Batches for any optimizer step, without state.

    Raises:
        UserError: a picture's caption is not among the encoded ones.
    """

    def __init__(
        self,
        instances: CachedImages,
        class_images: CachedImages | None,
        text: TrainingText,
        *,
        config: TrainingConfig,
        scaling_factor: float,
        timesteps: int,
        rows_per_step: int,
        class_prompt: str | None = None,
    ) -> None:
        self.groups = [instances] + ([class_images] if class_images is not None else [])
        self.class_prompt = class_prompt
        needed = [caption for group in self.groups for caption in group.captions]
        needed += [] if class_prompt is None else [class_prompt]
        if unknown := [caption for caption in needed if caption not in text.rows]:
            raise UserError(f"the caption {unknown[0]!r} was not encoded; encode this dataset's text first")
        self.text = text
        self.config = config
        self.scaling_factor = scaling_factor
        self.timesteps = timesteps
        self.rows_per_step = rows_per_step
        self._orders: dict[tuple[int, int], list[int]] = {}

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The rows of `slots` at `step`: instance rows, then as many class rows.

        Class rows are class images, or with `class_prompt` the instance rows again with that caption.
        """
        drawn = [self._row(group, step, slot) for group in range(len(self.groups)) for slot in slots]
        if self.class_prompt is not None:
            class_row = self.text.rows[self.class_prompt][0]
            drawn += [(*row[:-1], class_row) for row in drawn]
        x, eps, input_eps, t, ids, texts = zip(*drawn, strict=True)
        rows_B = torch.tensor(texts)
        conditioning = Conditioning(self.text.pick(rows_B), self.text.lengths_U[rows_B], torch.stack(ids))
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
        texts = self.text.rows[images.captions[picture]]
        text = 0 if dropped else texts[randomness.integer(len(texts), "caption-variant", *draw)]
        return x, eps, input_eps, t, images.time_ids_NV6[picture, variant], text

    def _picture(self, group: int, step: int, slot: int) -> int:
        """Every picture once per epoch, in an order of the epoch's own."""
        size = len(self.groups[group])
        epoch, place = divmod(step * self.rows_per_step + slot, size)
        if (group, epoch) not in self._orders:
            order = randomness.permutation(size, "order", self.config.seed, group, epoch)
            self._orders = {k: v for k, v in self._orders.items() if k[1] >= epoch - 1} | {(group, epoch): order}
        return self._orders[group, epoch][place]
